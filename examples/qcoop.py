"""QCoOp in plain PyTorch: from pictures to a learned prompt of 68 bytes.

The method of Hao et al., "Quantized Prompt for Efficient Generalization of Vision-Language Models" (ECCV 2024,
arXiv 2407.10704), on the small CLIP and the drawn pictures that the package carries. Section numbers are the paper's;
"ours" marks a choice that it leaves open. A test holds every step equal to the QCoOp trainer.

Shapes: C classes, B pictures, L tokens per prompt, M = 4 context vectors, D = 128 numbers per vector and per feature.
W (M, D) is learned; each of its N = M * D = 512 weights is stored as one of k = 2 levels: N / 8 + 2 k = 68 bytes.
"""

import argparse
import math
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from qprompt.backbones import import_clip, load_clip
from qprompt.world import fewshot

SHOTS, BATCH, LOGIT_SCALE = 16, 32, 100.0  # pictures per class, pictures per step, scale of OpenAI's CLIP models
WARMUP_LR, MOMENTUM, WEIGHT_DECAY = 1e-5, 0.9, 5e-4  # as in CoOp
T, T_KL = 10, 0.01  # section 3.3 names both and gives neither value: ours
CONTEXT, M = "a photo of a", 4  # one token for each of the M vectors to start from
PIXEL_MEAN, PIXEL_STD = torch.tensor([[0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]])


# --- Data: pictures of 30 classes. Training sees the first half (base); the other half (new) is for testing only.
def load_data(clip, draw, seed):
    """Base and new classes as numbers of nouns, then (features, labels) for training, base test and new test."""
    nouns, rng = fewshot.classes_of(draw), random.Random(seed)
    base, new = nouns[: math.ceil(len(nouns) / 2)], nouns[math.ceil(len(nouns) / 2) :]
    shots = {noun: rng.sample(range(fewshot.COUNTS["train"]), SHOTS) for noun in base}
    tests = ({noun: range(fewshot.COUNTS["test"]) for noun in half} for half in (base, new))
    return base, new, encode(clip, draw, "train", shots), *(encode(clip, draw, "test", test) for test in tests)


@torch.no_grad()
def encode(clip, draw, part, chosen):
    """Features (n, D) and labels (n,) of {noun: numbers of its pictures}. The frozen encoder sees each picture once."""
    pixels = np.stack([fewshot.render_image(draw, noun, part, i) for noun in chosen for i in chosen[noun]])
    x = (torch.from_numpy(pixels).float() / 255 - PIXEL_MEAN) / PIXEL_STD  # (n, height, width, 3)
    features = [clip.encode_image(batch) for batch in x.permute(0, 3, 1, 2).contiguous().split(BATCH)]
    return torch.cat(features), torch.tensor([label for label, noun in enumerate(chosen) for _ in chosen[noun]])


# --- CoOp (arXiv 2109.01134): the prompt of a class is "[v1][v2][v3][v4] <class>.", with learned vectors v.
def tokenize(nouns):
    """Token ids (C, L) of "a photo of a <class>."; the context vectors will replace tokens 1 to M."""
    return import_clip().tokenize([f"{CONTEXT} {fewshot.class_name(noun)}." for noun in nouns])


def shorten_(clip, tokens):
    """Cut prompts and text encoder to the longest prompt: attention over text is causal, so no feature changes."""
    length = int(tokens.argmax(-1).max()) + 1
    for block in clip.transformer.resblocks:
        block.attn_mask = block.attn_mask[:length, :length]
    return tokens[:, :length]


def class_logits(clip, images, tokens, context):
    """Scaled cosine similarities (B, C) of image features (B, D) with prompts: tokens (C, L), context (M, D)."""
    words = clip.token_embedding(tokens)  # (C, L, D)
    x = torch.cat([words[:, :1], context.expand(len(words), -1, -1), words[:, 1 + M :]], dim=1)
    x = (x + clip.positional_embedding[: x.shape[1]]).permute(1, 0, 2)  # the transformer takes (L, C, D)
    x = clip.ln_final(clip.transformer(x).permute(1, 0, 2))
    texts = x[torch.arange(len(x)), tokens.argmax(-1)] @ clip.text_projection  # (C, D) at the end token, the highest id
    images, texts = (x / x.norm(dim=-1, keepdim=True) for x in (images, texts))
    return LOGIT_SCALE * images @ texts.T


# --- The paper's computation. mu and sigma follow W at every step; the centroids c change only when they are fitted.
def normalize(W):
    """Section 3.3, normalization: W_hat (N,) = (W - mu) / sigma over all weights, mu and sigma."""
    sigma, mu = torch.std_mean(W.flatten(), -1, correction=0)
    return (W.flatten() - mu) / sigma, mu, sigma


def two_means(x):
    """Section 3.3, K-Means: the two centroids (k,), ascending, with the least squared error for x (N,)."""
    # Clusters on a line are intervals of the sorted values, so all N - 1 cuts are compared. To split off the lowest n
    # values, with sum s, reduces the squared error by N / (n (N - n)) * (s - n * mean)^2.
    N, n, s = len(x), torch.arange(1, len(x)), x.sort().values.cumsum(0, dtype=torch.float64)
    cut = ((s[:-1] - s[-1] / N * n).square() / (n * (N - n))).argmax()
    return torch.stack([s[cut] / n[cut], (s[-1] - s[cut]) / (N - n[cut])]).float()


class Quantizer:
    def __init__(self, W, t_kl=T_KL):
        self.step, self.t_kl = 0, t_kl
        self.fit(W)

    def fit(self, W):
        self.c, self.fitted_at = two_means(normalize(W)[0]), self.step
        self.counts = self.quantize(W)[0].bincount(minlength=2)

    def quantize(self, W):
        """Section 3.2: index (N,) of the nearest centroid, and the levels (k,) sigma * c + mu in fp16, as stored."""
        W_hat, mu, sigma = normalize(W)
        return (W_hat > self.c.mean()).long(), torch.addcmul(mu, sigma, self.c).half()

    def refresh(self, W):
        """Section 3.3, CAC: fit if T steps have passed and KL(P_now || P_ref) > T_KL, P the histogram of indices."""
        if self.step - self.fitted_at >= T:
            counts = torch.stack([self.quantize(W)[0].bincount(minlength=2), self.counts]) + 0.5  # never empty: ours
            p_now, p_ref = counts.double() / counts.sum(1, keepdim=True)
            self.kl = float((p_now * (p_now / p_ref).log()).sum())
            if self.kl > self.t_kl:
                self.fit(W)
        self.step += 1


class QCoOp:
    """The prompt in training: quantized in every forward pass, in full precision for the optimizer."""

    def __init__(self, clip, tokens, t_kl=T_KL):
        self.clip, self.tokens = clip, tokens
        self.W = clip.token_embedding(import_clip().tokenize(CONTEXT))[0, 1 : 1 + M].clone().requires_grad_()
        self.quantizer = Quantizer(self.W.detach(), t_kl)
        self.optim = torch.optim.SGD([self.W], lr=WARMUP_LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)

    def context(self):
        """Section 3.2, straight-through: W_q (M, D) with dW_q/dW = 1."""
        index, levels = self.quantizer.quantize(self.W.detach())
        W_q = levels.float()[index].view_as(self.W)
        return W_q.detach() + (self.W - self.W.detach())  # exact; W + (W_q - W).detach() rounds in half precision

    def train_step(self, images, labels):
        """Train on one batch of features (B, D) and labels (B,); return the loss."""
        self.quantizer.refresh(self.W.detach())
        loss = F.cross_entropy(class_logits(self.clip, images, self.tokens, self.context()), labels)
        self.optim.zero_grad()
        loss.backward()
        self.optim.step()
        return loss.item()

    def train(self, features, labels, epochs, lr):
        """Train with CoOp's schedule, one warm-up epoch and a cosine; yield epoch and loss after every step."""
        loader = DataLoader(TensorDataset(features, labels), BATCH, shuffle=True, drop_last=True)
        for epoch in range(epochs):
            cosine = lr * (1 + math.cos(math.pi * (epoch - 1) / epochs)) / 2
            self.optim.param_groups[0]["lr"] = cosine if epoch else WARMUP_LR
            for batch in loader:
                yield epoch, self.train_step(*batch)


# --- Section 3.4: one bit per weight and the two levels are all that is stored.
def pack(index, levels):
    """Indices (N,), eight per byte and the first in the lowest bit, then the levels (k,) in fp16: 68 bytes."""
    return np.packbits(index.numpy() > 0, bitorder="little").tobytes() + levels.numpy().astype("<f2").tobytes()


def unpack(data, width):
    """W_q (M, width) of what `pack` gave."""
    index = np.unpackbits(np.frombuffer(data, np.uint8, M * width // 8), bitorder="little")
    levels = np.frombuffer(data, "<f2", offset=M * width // 8).astype(np.float32)
    return torch.from_numpy(levels[index]).view(M, width)


@torch.no_grad()
def evaluate(clip, context, tests):
    """Accuracy in percent on base and on new classes, and their harmonic mean H."""
    base, new = (
        100 * float((class_logits(clip, x, tokens, context).argmax(-1) == y).double().mean()) for tokens, x, y in tests
    )
    return f"base {base:.1f}  new {new:.1f}  H {2 * base * new / max(base + new, 1e-9):.1f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"epochs": 200, "seed": 1, "draw": 0, "lr": 0.01, "out": Path("qcoop.bin")}.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"default: {default}")
    args = parser.parse_args()
    torch.set_num_threads(1)  # products this small leave other threads waiting
    torch.manual_seed(args.seed)
    clip = load_clip("tiny")
    base, new, train, *tests = load_data(clip, args.draw, args.seed)
    tokens = shorten_(clip, tokenize(base + new)).split(len(base))
    tests = [(ids, *test) for ids, test in zip(tokens, tests, strict=True)]
    prompt = QCoOp(clip, tokens[0])
    print(f"zero-shot, {CONTEXT!r}:  {evaluate(clip, prompt.W, tests)}")
    for step, (epoch, loss) in enumerate(prompt.train(*train, args.epochs, args.lr)):
        if not math.isfinite(loss):
            raise SystemExit(f"the loss is {loss} at step {step}: use a lower --lr")
        if step % 100 == 0:
            print(f"epoch {epoch + 1}  step {step}  loss {loss:.3f}  codebook of step {prompt.quantizer.fitted_at}")
    args.out.write_bytes(pack(*prompt.quantizer.quantize(prompt.W.detach())))
    stored = unpack(args.out.read_bytes(), prompt.W.shape[1])
    print(f"QCoOp, {args.out} ({args.out.stat().st_size} bytes):  {evaluate(clip, stored, tests)}")
    assert torch.equal(*(class_logits(clip, train[0], tokens[0], context) for context in (prompt.context(), stored)))
    print("The stored prompt gives the same logits as the trained one, bit for bit.")


if __name__ == "__main__":
    main()
