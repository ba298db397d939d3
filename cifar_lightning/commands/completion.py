"""completion: print a script that completes commands, options, choices, recipes and checkpoints in bash or zsh.

The script holds all words itself, so that it answers a TAB without starting Python.
"""

import contextlib
import io
import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from cifar_lightning.commands import COMMANDS
from cifar_lightning.commands.options.arguments import ArgumentParser
from cifar_lightning.io.options import SECTIONS, format_value, list_options, load_schema
from cifar_lightning.io.recipes import builtin_recipes

DESCRIPTION = """\
Print a script that completes commands, options, choices, recipes and
checkpoints. For every new shell, where bash-completion is installed:

  folder=~/.local/share/bash-completion/completions
  mkdir -p $folder && cifar-lightning completion bash > $folder/cifar-lightning

and otherwise, or for zsh, which has its own startup file:

  cifar-lightning completion bash >> ~/.bashrc
  cifar-lightning completion zsh >> ~/.zshrc"""

WORDS = """\
# The words that may follow: $1 is the command, $2 the option before, $3 what is written already.
_cifar_lightning_words() {{
  case "$1 $2" in
    {flags}) ;;
{choices}
    *" -"*) return ;;
  esac
  case $3 in
    -*) case $1 in
{options}
      esac ;;
  esac
}}
"""

BASH = """\
_cifar_lightning() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} command=${{COMP_WORDS[1]}}
  local word quoted IFS=$' \\t\\n'
  local -a found=()
  if [[ $prev == "=" ]]; then prev=${{COMP_WORDS[COMP_CWORD-2]}}
  elif [[ $cur == "=" ]]; then cur=; fi
  if ((COMP_CWORD == 1)); then found=({commands})
  else found=($(_cifar_lightning_words "$command" "$prev" "$cur")); fi
  case "$prev $command" in
    "-c sweep"|"--config sweep"|"sweep sweep") [[ $cur == -* ]] || found=(sweep configs/*.yaml *.yaml) ;;
    "-c "*|"--config "*|"fit fit"|"bench bench"|"audit audit")
      [[ $cur == -* ]] || found=({trained} configs/*.yaml *.yaml) ;;
    "recipes recipes") found=(list show copy) ;;
    "show recipes"|"copy recipes") found=({recipes}) ;;
    "completion completion") found=(bash zsh) ;;
    "--ckpt_path "*|"--model serve") found=(best last runs/*/version_*/*.ckpt) ;;
  esac
  COMPREPLY=()
  for word in "${{found[@]}}"; do
    # A pattern without files stays as it is. Names of files are only compared and quoted: compgen -W would expand them.
    if [[ $word == *"*"* && ! -e $word ]]; then continue; fi
    printf -v quoted %q "$word"
    if [[ $word == "$cur"* || $quoted == "$cur"* ]]; then COMPREPLY+=("$quoted"); fi
  done
}}
complete -o default -F _cifar_lightning cifar-lightning
"""

ZSH = """\
_cifar_lightning() {{
  local cur=${{words[CURRENT]}} prev=${{words[CURRENT-1]}} command=${{words[2]}}
  local -a found
  if [[ $cur == --*=* ]]; then
    prev=${{cur%%=*}} cur=${{cur#*=}}
    compset -P '*='
  fi
  if ((CURRENT == 2)); then found=({commands})
  else found=(${{=$(_cifar_lightning_words "$command" "$prev" "$cur")}}); fi
  case "$prev $command" in
    "-c sweep"|"--config sweep"|"sweep sweep") [[ $cur == -* ]] || found=(sweep configs/*.yaml(N) *.yaml(N)) ;;
    "-c "*|"--config "*|"fit fit"|"bench bench"|"audit audit")
      [[ $cur == -* ]] || found=({trained} configs/*.yaml(N) *.yaml(N)) ;;
    "recipes recipes") found=(list show copy) ;;
    "show recipes"|"copy recipes") found=({recipes}) ;;
    "completion completion") found=(bash zsh) ;;
    "--ckpt_path "*|"--model serve") found=(best last runs/*/version_*/*.ckpt(N)) ;;
  esac
  compadd -- $found || _files
}}
(( $+functions[compdef] )) || {{ autoload -Uz compinit && compinit; }}
compdef _cifar_lightning cifar-lightning
"""


def main(argv: Sequence[str]) -> int:
    """Print the script for a shell.

    Args:
        argv: The command and its arguments.

    Returns:
        The exit status.

    Raises:
        UsageError: If the shell is unknown.
    """
    parser = ArgumentParser("completion", description=DESCRIPTION)
    parser.add_argument("shell", choices=("bash", "zsh"), help="the shell")
    print(make_script(parser.parse_args(argv[1:]).shell), end="")
    return 0


def make_script(shell: str) -> str:
    """Return the script for a shell, "bash" or "zsh"."""
    options: dict[str, list[str]] = {}
    choices: dict[str, list[str]] = {}
    flags: set[str] = set()
    for command, (module, _) in COMMANDS.items():
        if command in load_schema()["x-commands"]:
            known = list_options(command)
            options[command] = [f"--{name}" for name, option in known.items() if "x-positional" not in option]
            flags |= {f"--{name}" for name, option in known.items() if "x-flag" in option}
            choices |= {f"--{name}": words for name, option in known.items() if (words := _choices(option))}
        else:
            text = _help_of(module, command)
            options[command] = [*re.findall(r"^ +(?:-\w, )?(--[\w.]+)", text, re.MULTILINE)]
            flags |= set(re.findall(r"^ +(--[\w.]+)(?:  |$)", text, re.MULTILINE))
            for option, values in re.findall(r"^ +(--[\w.]+) \{([\w,]+)\}", text, re.MULTILINE):
                choices[f"{command} {option}"] = values.split(",")
    choices["--help"] = ["all", *SECTIONS]
    flags.discard("--help")  # A topic may follow.
    script = WORDS.format(
        flags="|".join(f'*" {flag}"' for flag in sorted(flags)),
        choices="\n".join(_format_choices(option, words) for option, words in choices.items()),
        options="\n".join(f'      {command}) echo "{" ".join(names)}" ;;' for command, names in options.items()),
    )
    template = {"bash": BASH, "zsh": ZSH}[shell]
    recipes = list(builtin_recipes())
    trained = " ".join(name for name in recipes if name != "sweep")
    return script + template.format(commands=" ".join(COMMANDS), recipes=" ".join(recipes), trained=trained)


def _choices(option: Mapping[str, Any]) -> list[str]:
    """Return the values of an option that a shell can complete; it divides words at colons."""
    values = option.get("examples") or option.get("enum") or []
    if option.get("type") == "boolean" or "boolean" in option.get("type", ()):
        values = [True, False, *values]
    words = [format_value(value) for value in values if value is not None]
    return [] if "x-flag" in option else [word for word in words if ":" not in word]


def _format_choices(option: str, words: Sequence[str]) -> str:
    pattern = f'"{option}"' if " " in option else f'*" {option}"'  # "leaderboard --format", or of any command
    return f'    {pattern}) echo "{" ".join(words)}"; return ;;'


def _help_of(module: str, command: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        import_module(f"cifar_lightning.commands.{module}").main([command, "--help"])
    return text.getvalue()
