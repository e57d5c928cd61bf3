"""The folder of real rollouts that lies beside the project, where there is one."""

from pathlib import Path

SHARED = next(
    (
        folder / "shared" / "data"
        for folder in Path(__file__).resolve().parents
        if (folder / "shared" / "data").is_dir()
    ),
    Path("shared/data"),
)
REASONING_MODELS = SHARED / "rollouts-reasoning-models.parquet"
REASONING_GYM = SHARED / "rollouts-reasoning-gym.parquet"
QUERY_FEATURES = SHARED / "query-features.csv.gz"
