"""A script that knows of scalectl only where its rows go: a loss that falls with width, checkpoints of its own."""

import argparse
import json
import os
import random
import time

parser = argparse.ArgumentParser()
parser.add_argument("--width", type=int, required=True)
parser.add_argument("--seed", type=int, required=True)
parser.add_argument("--steps", type=int, default=40)
parser.add_argument("--lr", type=float, default=0.1)
parser.add_argument("--pause", type=float, default=0.0, help="seconds of a step")
parser.add_argument("--out", required=True)
args = parser.parse_args()
checkpoint = os.path.join(args.out, "checkpoint.json")
step, x = 0, 8.0
if os.path.exists(checkpoint):
    with open(checkpoint) as file:
        step, x = json.load(file)
print("from step", step)
with open(os.environ["SCALECTL_ROWS"], "a", buffering=1) as rows:
    while step < args.steps:
        step += 1
        noise = random.Random(1000 * args.seed + step).gauss(0, 0.01)
        x -= args.lr * (x + noise)
        if abs(x) > 1e6:
            x = float("nan")
        if step % 10 == 0:
            loss = 1.5 + 4 * (12 * args.width**2) ** -0.25 + abs(x)
            rows.write(json.dumps({"step": step, "loss": loss}) + "\n")
        if step % 4 == 0:
            with open(checkpoint + ".new", "w") as file:
                json.dump([step, x], file)
            os.replace(checkpoint + ".new", checkpoint)
        time.sleep(args.pause)
