from pathlib import Path
def make_self_contained(folder: Path) -> None:
    pass
