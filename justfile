# The commands of daily work. `just check` is what continuous integration runs.

# Show what there is.
default:
    @just --list

# The four programs, optimised.
build:
    cargo build --release

# Everything but whole training runs.
test *ARGS:
    cargo test --workspace {{ARGS}}

# Whole training runs, with their figures.
slow:
    cargo test --workspace --test slow -- --ignored --nocapture --test-threads=1

# What continuous integration runs.
check:
    .ci/run

# Format the sources.
fmt:
    cargo fmt --all
    cargo fmt --manifest-path fuzz/Cargo.toml

# Fail where the sources are not formatted.
fmt-check:
    cargo fmt --all --check
    cargo fmt --manifest-path fuzz/Cargo.toml --check

# Clippy, with every warning an error.
lint:
    cargo clippy --workspace --all-targets --quiet -- -D warnings

# The documentation, with every broken link an error.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet

# Licences, banned packages and sources of the dependencies; needs cargo-deny.
deny:
    cargo deny check bans licenses sources

# Random bytes for whatever reads bytes from outside, so many seconds for each target.
fuzz SECONDS="60":
    fuzz/run {{SECONDS}}

# A long run in which random processes are killed, and its report.
soak SECONDS="1800" SEED="1": build
    cargo build --release --package tests --example soak
    rm -rf runs/soak
    target/release/examples/soak --seconds {{SECONDS}} --seed {{SEED}}

# A coordinator under 1,000 members that compute nothing, for so many seconds.
load SECONDS="600": build
    cargo build --release --package tests --example load
    rm -rf runs/load
    target/release/examples/load --seconds {{SECONDS}}

# Grafana's dashboards and Prometheus' rules, from the metrics that the programs declare.
boards:
    cargo run --package dashboards

# The invariants of ARCHITECTURE.md that a program can check.
tidy:
    cargo test --workspace --test tidy

# Train the built-in miniature from start to table.
try *ARGS: build
    target/release/coordinator launch --actors 2 {{ARGS}}

# Make the miniature's weights anew; each recipe checks its gates.
miniature: build
    rm -rf runs/miniature-strong runs/miniature-weak
    target/release/coordinator sft --config config/sft-miniature-strong.toml --run-dir runs/miniature-strong
    target/release/coordinator sft --config config/sft-miniature-weak.toml --run-dir runs/miniature-weak
    cp runs/miniature-strong/checkpoints/step-001800/model.safetensors assets/miniature/strong.safetensors
    cp runs/miniature-weak/checkpoints/step-000650/model.safetensors assets/miniature/weak.safetensors

# What one NVIDIA GPU can show: checks against the CPU, speed beside PyTorch; see docs/gpu.md.
gpu:
    tests/gpu/run.sh
