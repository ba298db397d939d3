"""Recipes by name: files of the user, and those that come with the package; what their first lines say of them.

Standard library only, because the entry finds recipes before anything heavy is imported.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from cifar_lightning.errors import UsageError
from cifar_lightning.io.text import first_ten

USUAL_FOLDER = Path("configs")
"""The folder, in the current one, in which recipes are looked for by their names."""

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Recipe:
    """A recipe, as its first lines describe it.

    Attributes:
        path: The file.
        title: What it is, in a few words.
        accuracy: The accuracy measured with it, such as "76.6 % ± 0.1"; empty if none was.
        runs: With how many seeds, such as "3"; empty if none was measured.
        time: How long training took, such as "333 s"; empty if it was not measured.
        processor: The vector units of the processor it was measured on, such as "AMX" or "AVX2".
    """

    path: Path
    title: str
    accuracy: str
    runs: str
    time: str
    processor: str

    @property
    def name(self) -> str:
        """The name by which ``--config`` finds it."""
        return self.path.stem


def builtin_recipes() -> dict[str, Path]:
    """Return the files of the recipes that come with the package, by name."""
    package = Path(__file__).parent.parent
    packaged = package / "recipes"
    folder = packaged if packaged.is_dir() else package.parent / USUAL_FOLDER  # In a checkout they are still there.
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def list_recipes() -> list[Recipe]:
    """Describe the recipes that come with the package, in alphabetical order."""
    return [describe_recipe(path) for path in builtin_recipes().values()]


def describe_recipe(path: Path) -> Recipe:
    """Read what a recipe's first lines say of it.

    The first one is the title. "Accuracy:" and "Time:" begin the lines with what was measured.

    Args:
        path: The file.
    """
    comments = [line[1:].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    comments = [line for line in comments if not line.startswith("yaml-language-server:")]
    text = "\n".join(comments)
    accuracy = re.search(r"^Accuracy: (\d\S* %(?: ± \S+)?) \(n = (\d+)", text, re.MULTILINE)
    time = re.search(r"^Time: (\d+ s) on .*? with (\w[\w-]*)", text, re.MULTILINE)
    return Recipe(
        path,
        title=comments[0].rstrip(".") if comments else "",
        accuracy=accuracy[1] if accuracy else "",
        runs=accuracy[2] if accuracy else "",
        time=time[1] if time else "",
        processor=time[2] if time else "",
    )


def find_recipe(name: str) -> Path | None:
    """Find a recipe, or the config of a sweep.

    A file wins. ``cnn`` without such a file means cnn.yaml, configs/cnn.yaml or the built-in recipe, the first of them
    that exists; and configs/cnn.yaml without such a file means the built-in one, so that the same command works with
    and without a clone of the project.

    Args:
        name: A path or a bare name.

    Returns:
        Its file, or None if there is none.
    """
    path = Path(name)
    candidates = [path]
    builtin = None
    if path.name == name and not name.endswith(SUFFIXES):
        candidates += [Path(f"{name}.yaml"), USUAL_FOLDER / f"{name}.yaml"]
        builtin = builtin_recipes().get(name)
    elif path.parent == USUAL_FOLDER and path.suffix == ".yaml":
        builtin = builtin_recipes().get(path.stem)
    return next((candidate for candidate in candidates if candidate.is_file()), builtin)


def is_recipe(name: str) -> bool:
    """Tell whether a bare name is that of a recipe in configs/ or of a built-in one."""
    return (USUAL_FOLDER / f"{name}.yaml").is_file() or name in builtin_recipes()


def require_recipe(name: str, kind: str = "config") -> Path:
    """Find a recipe as ``find_recipe`` does.

    Args:
        name: A path or a bare name.
        kind: What it is called in messages.

    Raises:
        UsageError: If there is none; it names similar ones.
    """
    if found := find_recipe(name):
        return found
    path = Path(name)
    if path.is_dir():
        raise UsageError(f"the {kind} {name} is a folder; name a YAML file in it.")
    known = _known_recipes(path.parent)
    near = get_close_matches(path.stem, list(dict.fromkeys(known.values())), n=1, cutoff=0.6)
    if near:
        hint = f"Did you mean {next(word for word, stem in known.items() if stem == near[0])}?"
    else:
        files = [word for word in known if word.endswith(SUFFIXES)]
        builtin = [word for word in known if word not in files]
        hint = f"There is {first_ten(files)}. " if files else ""
        hint += f"Built in are {', '.join(builtin)}; cifar-lightning recipes says what they are."
    raise UsageError(f"there is no {kind} {name} (in {Path.cwd()}). {hint}")


def _known_recipes(folder: Path) -> Mapping[str, str]:
    """Return the words that name the recipes there are, files before built-in ones, each with the recipe's name."""
    files = [path for place in (folder, USUAL_FOLDER) if place.is_dir() for path in sorted(place.glob("*.yaml"))]
    return {str(path): path.stem for path in files} | {name: name for name in builtin_recipes()}


def name_recipe(path: Path) -> str:
    """Return a recipe's name as it is printed: "cnn (built in)", or the path of a file."""
    return f"{path.stem} (built in)" if builtin_recipes().get(path.stem) == path else str(path)


def name_run(recipe: Path) -> str:
    """Return the name of the folder for the runs of a recipe.

    It is the file's name; for a run's own ``config.yaml`` the name of the run's recipe; and for the ``best.yaml`` and
    the trials of a search its name with "-best" or "-trial", so that unrelated runs do not share a folder.

    Args:
        recipe: The file.
    """
    folder = recipe.absolute().parent
    if recipe.name == "config.yaml" and folder.name.startswith("version_"):
        is_trial = (folder.parent / "trials.csv").is_file()
        return f"{folder.parent.name}{'-trial' * is_trial}"
    return f"{folder.name}-best" if recipe.name == "best.yaml" else recipe.stem
