"""CoOp under Gaussian noise: the control experiment of arXiv 2407.10704, section 3.1."""

from dassl.engine import TRAINER_REGISTRY

from qprompt.quantization.noise import add_noise_, renew_
from trainers.coop import CoOp


@TRAINER_REGISTRY.register()
class NoisyCoOp(CoOp):
    """CoOp with fresh noise of strength TRAINER.NOISE.SIGMA on its context at every training step, none in tests."""

    def build_model(self):
        super().build_model()
        noise = self.cfg.TRAINER.NOISE
        add_noise_(self.model, "prompt_learner.ctx", noise.SIGMA, noise.RELATIVE, seed=max(self.cfg.SEED, 0))

    def forward_backward(self, batch):
        renew_(self.model)
        return super().forward_backward(batch)
