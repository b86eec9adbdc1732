"""Ray reads its environment when it is first imported: here that is while tests are collected."""

from srgan_ray.on_ray.session import set_embedded_environment

set_embedded_environment()
