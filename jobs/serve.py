"""`srgan-ray serve` as a job: `ray job submit --working-dir . -- python jobs/serve.py …`."""

import sys

from srgan_ray.cli import main

if __name__ == "__main__":
    main(["serve", *sys.argv[1:]])
