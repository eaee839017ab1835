"""The pre-training methods: a file each, named by `config.method`."""

from maskedclip.config import Config
from maskedclip.pretrain.methods.dinov2 import DinoV2Method
from maskedclip.pretrain.methods.maskedclip import MaskedClipMethod
from maskedclip.pretrain.methods.protocol import Method
from maskedclip.pretrain.methods.simmim import SimMimMethod

METHODS: dict[str, type[Method]] = {
    "maskedclip": MaskedClipMethod,
    "dinov2": DinoV2Method,
    "simmim": SimMimMethod,
}


def method_of(config: Config) -> type[Method]:
    """Return the method of a run; ValueError where it cannot do what `config` asks."""
    method = METHODS[config.method]
    method.check(config)
    return method
