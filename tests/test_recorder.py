"""The record of what quantization did."""

import math

import numpy as np
import pytest
import torch
from quantized import NAMES, Learner, one, weights

from qprompt.errors import UserError
from qprompt.quantization.api import count_ahead, quantize_, quantized_parameters, refresh_
from qprompt.quantization.recorder import Recorder, read


class Writer:
    """What the recorder uses of a SummaryWriter."""

    def __init__(self):
        self.scalars, self.histograms = {}, {}

    def add_scalar(self, tag, value, step):
        self.scalars[tag, step] = value

    def add_histogram_raw(self, tag, low, high, number, total, squares, ends, counts, step):
        assert len(ends) == len(counts)
        assert sum(counts) == number
        self.histograms[tag, step] = counts


def drift(module):
    with torch.no_grad():
        for _, original in quantized_parameters(module).values():
            original.add_(0.1 * original.abs())


def run(module, recorder, steps):
    refits = []
    for _ in range(steps):
        fitted = refresh_(module)
        recorder.step(module, fitted)
        refits.append(fitted)
        drift(module)
    return refits


def test_holds_what_happened(tmp_path):
    module, writer = Learner(), Writer()
    quantize_(module, names=NAMES, bits=2, min_interval=3, kl_threshold=1e-3)
    recorder = Recorder(tmp_path / "r.npz", writer, every=1, histogram_steps=(0, 5))
    refits = run(module, recorder, 8)
    recorder.step(module, [])
    recorder.close()
    r = read(tmp_path / "r.npz")
    names = ["ctx", "deep.0", "deep.1", "proj.weight"]
    assert r["name"].tolist() == names
    assert r["step"].tolist()[:8] == list(range(8))
    expected = [[name in fitted or step == 0 for name in names] for step, fitted in enumerate(refits)]
    assert r["refit"][:8].tolist() == expected and any(refits)
    fake, original = quantized_parameters(module)["ctx"]
    assert r["mu"][-1, 0] == pytest.approx(original.mean().item(), rel=1e-5)
    assert r["sigma"][-1, 0] == pytest.approx(original.std(unbiased=False).item(), rel=1e-5)
    assert r["kl"][-1, 0] == pytest.approx(fake.divergence(original), rel=1e-3)
    mse = (module.ctx - original).detach().square().mean()
    assert r["mse"][-1, 0] == pytest.approx(mse.item(), rel=1e-5)
    assert r["snr_db"][-1, 0] == pytest.approx(10 * math.log10(original.detach().square().mean() / mse), rel=1e-4)
    assert r["codebook/ctx"].shape == (len(r["codebook_step/ctx"]), 1, 4)
    assert np.array_equal(r["codebook/ctx"][-1], fake.codebook.numpy())
    assert r["histogram_step/ctx"].tolist() == [0, 5]
    assert r["histogram/ctx"].sum(-1).tolist() == [256, 256] and r["histogram_range/ctx"].shape == (2, 2)
    assert writer.scalars["quantization/ctx/mse", 7] == pytest.approx(r["mse"][-1, 0])
    assert ("quantization/ctx", 5) in writer.histograms
    assert not recorder.part.exists()


def test_records_every_tenth_step_and_each_with_a_fit(tmp_path):
    module, *_ = one(weights(4, 64), bits=2, policy="every", start_step=24)
    recorder = Recorder(tmp_path / "r.npz")
    run(module, recorder, 28)
    recorder.close()
    r = read(tmp_path / "r.npz")
    assert r["step"].tolist() == [0, 10, 20, 24, 25, 26, 27]
    assert np.isnan(r["kl"][:3]).all() and np.isinf(r["snr_db"][:3]).all() and (r["mse"][:3] == 0).all()
    assert r["codebook_step/ctx"].tolist() == [24, 25, 26, 27]


def test_recording_changes_nothing(tmp_path):
    plain, recorded = Learner(), Learner()
    for module in (plain, recorded):
        quantize_(module, names=NAMES, bits=2, min_interval=2, kl_threshold=1e-3)
    recorder = Recorder(tmp_path / "r.npz", every=1, histogram_steps=(1,))
    run(recorded, recorder, 6)
    for _ in range(6):
        refresh_(plain)
        drift(plain)
    assert all(torch.equal(value, recorded.state_dict()[key]) for key, value in plain.state_dict().items())


@pytest.mark.parametrize("beyond", [0, 4])
def test_a_run_that_was_cut_off_loses_and_doubles_nothing(tmp_path, beyond):
    def fresh():
        module = Learner()
        quantize_(module, names=NAMES, bits=2, min_interval=3, kl_threshold=1e-3)
        return module

    def steps(module, recorder, first, last):
        for number in range(first, last):
            recorder.step(module, refresh_(module))
            drift(module)
            if number % 5 == 4:
                recorder.histogram(module)

    whole = Recorder(tmp_path / "whole.npz", every=2)
    steps(fresh(), whole, 0, 20)
    whole.close()

    module, cut = fresh(), Recorder(tmp_path / "cut.npz", every=2)
    steps(module, cut, 0, 10)
    checkpoint = {key: value.clone() for key, value in module.state_dict().items()}
    steps(module, cut, 10, 10 + beyond)
    with open(cut.part, "a") as file:
        file.write('{"step": 14, "rows": {"ctx"')  # killed half-way through a line
    resumed, again = fresh(), Recorder(tmp_path / "cut.npz", every=2)
    resumed.load_state_dict(checkpoint)
    steps(resumed, again, 10, 20)
    again.close()
    assert (tmp_path / "whole.npz").read_bytes() == (tmp_path / "cut.npz").read_bytes()


def test_many_groups_and_16_bits(tmp_path):
    for fields in ({"granularity": "group", "group_size": 2, "bits": 8}, {"bits": 16}, {"granularity": "row"}):
        module, *_ = one(weights(4, 64), **fields)
        recorder = Recorder(tmp_path / "r.npz")
        run(module, recorder, 2)
        recorder.close()
        assert len(read(tmp_path / "r.npz")["step"]) == 1


def test_other_files_are_refused(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    (tmp_path / "text.npz").write_text("hello")
    for name in ("other.npz", "text.npz", "nowhere.npz"):
        with pytest.raises(UserError, match=name):
            read(tmp_path / name)


def test_closing_without_a_step_writes_nothing(tmp_path):
    Recorder(tmp_path / "r.npz").close()
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_no_file_can_hold_is_refused(tmp_path):
    (tmp_path / "r.npz.part").write_text('{"step": 0, "codebook": {"\\ud800": [[0.0, 1.0]]}}\n')
    with pytest.raises(UserError, match="damaged"):
        Recorder(tmp_path / "r.npz").close()
    assert not (tmp_path / "r.npz").exists()


def test_what_is_read_together_at_the_end_of_a_step_is_what_is_read_at_once(tmp_path):
    """A training loop that waits for the device once a step: same record, same levels, no transfer in `refresh_`."""
    fields = {"names": NAMES, "bits": 2, "min_interval": 2, "kl_threshold": 1e-3}
    modules, recorders = [Learner(), Learner()], [Recorder(tmp_path / f"{n}.npz", every=2) for n in "ab"]
    for module in modules:
        quantize_(module, **fields)
    fits = []
    for _ in range(12):
        fits.append(refresh_(modules[0]))
        recorders[0].step(modules[0], fits[-1])
        drift(modules[0])

        assert refresh_(modules[1]) == fits[-1]
        measured = recorders[1].measure(modules[1], fits[-1])
        drift(modules[1])
        counted = count_ahead(modules[1])
        numbers = [each.numbers if each is measured else each.numbers() for each in (counted, measured) if each]
        numbers = [each.numpy() for each in numbers]
        if counted is not None:
            counted.take(numbers[0], ahead=True)
        if measured is not None:
            recorders[1].write(measured, numbers[-1])
    assert sum(map(bool, fits)) > 1
    for recorder in recorders:
        recorder.close()
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert all(torch.equal(value, modules[1].state_dict()[key]) for key, value in modules[0].state_dict().items())


def test_a_count_ahead_is_used_once_and_only_for_the_weight_that_was_counted():
    module, fake, original = one(weights(4, 64), bits=2, min_interval=1, kl_threshold=math.inf)
    refresh_(module)
    for change, used in ((None, True), (lambda: original.add_(0.5), False)):
        counted = count_ahead(module)
        if change is not None:
            with torch.no_grad():
                change()
        counted.take(counted.numbers().numpy(), ahead=True)
        fake.kl = -1.0  # as if it had been measured
        refresh_(module)
        assert (fake.kl == -1.0) is used
        assert torch.equal(module.ctx.detach(), fake.encode(original).values.view(4, 64))
        refresh_(module)
        assert fake.kl == fake.divergence(original)
