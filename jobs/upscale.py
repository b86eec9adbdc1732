"""`srgan-ray upscale` as a job: `ray job submit --working-dir . -- python jobs/upscale.py …`."""

import sys

from srgan_ray.cli import main

if __name__ == "__main__":
    main(["upscale", *sys.argv[1:]])
