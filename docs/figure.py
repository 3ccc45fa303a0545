#!/usr/bin/env python3
"""Draws docs/result.svg from a run directory: python3 docs/figure.py RUN > docs/result.svg"""
import json
import pathlib
import sys

WIDTH, HEIGHT, LEFT, TOP, PLOT_W, PLOT_H = 760, 330, 56, 44, 430, 230
STRONG, WEAK = "#b3452c", "#2c6fb3"


def smooth(values, reach=2):
    out = []
    for i in range(len(values)):
        part = values[max(0, i - reach) : i + reach + 1]
        out.append(sum(part) / len(part))
    return out


def path(values, colour):
    points = []
    for i, value in enumerate(values):
        x = LEFT + PLOT_W * (i + 1) / len(values)
        points.append(f"{x:.1f},{TOP + PLOT_H * (1 - value):.1f}")
    return f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="2"/>'


def text(x, y, words, size=13, anchor="start", colour="#222"):
    return f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" fill="{colour}">{words}</text>'


def main(run):
    run = pathlib.Path(run)
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((run / "summary.json").read_text())
    jargon = smooth([s["values"]["jargon_rate"] for s in steps])
    reward = smooth([s["values"]["reward_mean"] for s in steps])
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="Helvetica, Arial, sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        text(LEFT, 24, "Training: rollouts of each step, mean over 5 steps", 14),
    ]
    for tick in range(0, 5):
        y = TOP + PLOT_H * (1 - tick / 4)
        out.append(f'<line x1="{LEFT}" x2="{LEFT + PLOT_W}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        out.append(text(LEFT - 8, y + 4, f"{tick / 4:.2f}", 12, "end"))
        x = LEFT + PLOT_W * tick / 4
        out.append(text(x, TOP + PLOT_H + 20, f"{len(steps) * tick // 4}", 12, "middle"))
    out.append(text(LEFT + PLOT_W / 2, HEIGHT - 14, "step", 13, "middle"))
    out += [path(jargon, STRONG), path(reward, WEAK)]
    right = LEFT + PLOT_W - 6
    out.append(text(right, TOP + PLOT_H * 0.86, "jargon of the strong model", 13, "end", STRONG))
    out.append(text(right, TOP + PLOT_H * 0.32, "correct answers, weak model", 13, "end", WEAK))
    out.append(text(right, TOP + PLOT_H * 0.39, "writing a quarter of the words", 13, "end", WEAK))

    left = LEFT + PLOT_W + 40
    out.append(text(left, 24, f"{summary['after']['problems']} held-out problems", 14))
    out.append(text(left + 158, 52, "before", 12, "end"))
    out.append(text(left + 214, 52, "after", 12, "end"))
    rows = [("jargon rate", lambda e: e["jargon_rate"])]
    for schedule in summary["after"]["tandem_accuracy"]:
        rows.append((f"tandem {schedule}", lambda e, s=schedule: e["tandem_accuracy"][s]))
    rows.append(("strong alone", lambda e: e["solo_accuracy"]))
    for i, (name, pick) in enumerate(rows):
        y = 78 + 26 * i
        out.append(text(left, y, name, 12))
        out.append(text(left + 158, y, f"{pick(summary['before']):.3f}", 12, "end"))
        out.append(text(left + 214, y, f"{pick(summary['after']):.3f}", 12, "end"))
    out.append("</svg>")
    print("\n".join(out))


main(sys.argv[1])
