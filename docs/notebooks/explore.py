# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From rows to insight
#
# What a person can learn from a table of picture features in ten minutes, on the pictures of `make demo`: on Monday
# a model was fitted to six kinds of fruit, and on Tuesday more came, in bursts of three shots, with watermelons among
# them for the first time.
#
# `make notebook` starts it. For pictures of your own, put your places into the next cell, and your labels and days in
# place of the demo's into those below.

# %%
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Image, display
from sklearn.manifold import TSNE

from streaming.api import load_model, read_table

DEMO = Path(os.environ.get("DEMO", "../../demo"))
OUTPUT, MODELS, EXPORTS = DEMO / "output", DEMO / "models", DEMO / "exports"


# %% [markdown]
# How things look, and two helpers: one asks a verb of the command line, one shows pictures in a row.

# %%
COLOURS = {
    "Apple Red": "#c3272b",
    "Banana": "#e3b505",
    "Kiwi": "#8a6b3d",
    "Lime": "#7cb342",
    "Orange": "#f57c00",
    "Plum": "#6a3d9a",
    "Watermelon": "#00695c",
}
GREY = "#9aa0a6"  # of any other label
plt.rcParams.update(
    {
        "figure.dpi": 96,
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
    }
)
pd.set_option("display.precision", 2, "display.max_colwidth", 60)


def ask(*words):
    """The answer of a verb, as in: python -m streaming export --output OUTPUT --to EXPORTS --json."""
    command = [sys.executable, "-m", "streaming", *map(str, words), "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)


def short(path):
    """The end of a path: day, label and name."""
    return "/".join(path.split("/")[-3:])


def show(paths, notes, title, *, frame_first=True):
    """Pictures in a row, each with a note below it."""
    figure, cells = plt.subplots(1, len(paths), figsize=(1.2 * len(paths), 1.8), layout="constrained")
    for number, (cell, path, note) in enumerate(zip(cells, paths, notes, strict=True)):
        cell.imshow(plt.imread(path))
        cell.set(xticks=[], yticks=[])
        cell.set_xlabel(note, fontsize=8)
        cell.spines[:].set_visible(frame_first and number == 0)
        cell.spines[:].set(linewidth=2.5, color="#1a73e8")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    jpeg = io.BytesIO()  # which takes a fifth of the bytes of a PNG here
    figure.savefig(jpeg, format="jpeg", dpi=100, pil_kwargs={"quality": 85})
    plt.close(figure)
    display(Image(jpeg.getvalue()))


# %% [markdown]
# ## The table
#
# A folder of Parquet files, so any reader will do. pandas reads all of it, or one day with `filters=`:

# %%
rows = pd.read_parquet(OUTPUT / "features")
rows["day"] = rows["path"].str.split("/").str[-3]  # of the demo: the folder above the label's
rows["picture"] = rows["path"].map(short)
rows[["picture", "label", "predicted_label", "confidence", "reconstruction_error"]].sample(5, random_state=1)

# %% [markdown]
# DuckDB asks in SQL, without reading it into memory first:

# %%
duckdb.sql(f"""
    SELECT
        label,
        count(*) AS pictures,
        round(median(reconstruction_error)) AS typical_error,
        round(100 * avg(CAST(predicted_label = label AS INT))) AS percent_recognised
    FROM read_parquet('{OUTPUT}/features/**/*.parquet', union_by_name = true)
    GROUP BY label ORDER BY typical_error
""").df()

# %% [markdown]
# One kind stands out: the model cannot express it, and recognises none of it. What that is, the pictures will show.
#
# ## One model over the whole history
#
# Each model has axes of its own, so features of two models must not be compared. After a refit, a table has rows of
# several. An export puts all of them into the current one, from the embeddings that the stream has kept:

# %%
exported = ask("export", "--output", OUTPUT, "--to", EXPORTS, "--models", MODELS)
print(f"{exported['rows']} rows, all of model {exported['model']}, {exported['left_out']} left out")

table = read_table(EXPORTS)
print("pictures, components:", table.features.shape, table.features.dtype)

rows = rows.set_index("path").loc[table.paths].reset_index()  # row i is of the picture of row i of the matrix

# %% [markdown]
# ## What is near to what
#
# The first two components keep the most of the variance that two axes can keep. t-SNE gives up the axes and keeps
# neighbourhoods. (UMAP would, too, but needs a compiler, numba.) Rings are Tuesday's pictures.

# %%
neighbourhoods = TSNE(init="pca", perplexity=20, random_state=0).fit_transform(table.features)

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
for cell, points, title in (
    (left, table.features[:, :2], "The first two components"),
    (right, neighbourhoods, "t-SNE of all components"),
):
    for label, at in rows.groupby("label").indices.items():
        colour, late = COLOURS.get(label, GREY), rows["day"].iloc[at] == "tuesday"
        face = [("none" if one else colour) for one in late]
        cell.scatter(*points[at].T, s=22, facecolors=face, edgecolors=colour, linewidths=1.1, label=label)
    cell.set_title(title)
left.set(xlabel="PC1", ylabel="PC2")
right.set(xticks=[], yticks=[])
handles = [plt.Line2D([], [], marker="o", linestyle="", color=COLOURS.get(one, GREY), label=one) for one in COLOURS]
figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9)
plt.show()

# %% [markdown]
# ## The nearest pictures
#
# `nearest` compares all rows, by the cosine of the angle between them. Of each burst, one shot is asked for here.

# %%
matrix = dict(zip(table.paths, table.features, strict=True))
for fruit in ("Banana", "Watermelon"):
    asked = rows[(rows["label"] == fruit) & (rows["day"] == "tuesday")]["path"].min()
    nearest = table.nearest(matrix[asked], 8)
    notes = [f"{Path(near.path).parent.name}\n{near.distance:.3f}" for near in nearest]
    show([near.path for near in nearest], notes, f"Nearest to {short(asked)}")

# %% [markdown]
# ## What the classifier takes for what
#
# Of Tuesday's pictures alone, since it was fitted to Monday's. It knows six labels and nothing else, so each watermelon
# gets the name of another fruit, and its confidence hardly warns. The reconstruction error does.

# %%
known = load_model(MODELS, table.model).labels
tuesday = rows[rows["day"] == "tuesday"]
confusions = pd.crosstab(tuesday["label"], tuesday["predicted_label"]).reindex(columns=known, fill_value=0)

figure, cell = plt.subplots(figsize=(5.2, 4.2), layout="constrained")
cell.imshow(confusions, cmap="Blues", vmin=0, vmax=confusions.to_numpy().max() * 2.2)
for (down, across), count in np.ndenumerate(confusions):
    if count:
        correct = confusions.index[down] == known[across]
        cell.text(across, down, count, ha="center", va="center", color="black" if correct else "#c5221f", weight="bold")
cell.set_xticks(range(len(known)), known, rotation=30, ha="right")
cell.set_yticks(range(len(confusions.index)), confusions.index)
cell.set(xlabel="predicted", ylabel="label")
cell.spines[:].set_visible(False)
plt.show()

tuesday.groupby("label")[["confidence", "reconstruction_error"]].median()

# %% [markdown]
# ## Drift
#
# The line is the 95th percentile of the pictures that the fit held out: about 5 % should lie above it. On a real table,
# group by `date` in place of `day`. (The demo's fit holds out too few pictures for an exact line.)

# %%
manifest = json.loads((MODELS / table.model / "manifest.json").read_text())
line = manifest["held_back"]["error_p95"]

figure, cell = plt.subplots(figsize=(10, 3.2), layout="constrained")
scatter = np.random.default_rng(0).uniform(-0.32, 0.32, len(rows))
days = sorted(rows["day"].unique())
places = rows["day"].map(days.index) + scatter
cell.scatter(rows["reconstruction_error"], places, s=14, c=rows["label"].map(COLOURS).fillna(GREY), alpha=0.8)
cell.axvline(line, color="#c5221f", linewidth=1, linestyle="--")
cell.annotate(" 95th percentile of held-out pictures", (line, 1.5), color="#c5221f", fontsize=8, va="center")
cell.set(xscale="log", xlabel="reconstruction error", ylim=(len(days) - 0.45, -0.6))
cell.set_yticks(range(len(days)), days)
plt.show()

rows.assign(above=rows["reconstruction_error"] > line).groupby("day")["above"].agg(share="mean", pictures="size")

# %% [markdown]
# Which pictures are they? The worst expressed ones:

# %%
worst = rows.nlargest(8, "reconstruction_error")
notes = [f"{label}\n{error:,.0f}" for label, error in zip(worst["label"], worst["reconstruction_error"], strict=True)]
show(list(worst["path"]), notes, "The highest reconstruction errors", frame_first=False)

# %% [markdown]
# Watermelons belong here, so a refit is due: `python -m batch_fit fit --embeddings OUTPUT --models MODELS` reads no
# picture.
#
# ## Bursts
#
# Pictures of one scene by one camera within ten seconds. Of each group, one is enough; the first is the one to keep.

# %%
bursts = ask("duplicates", "--table", EXPORTS, "--burst", "10s")
print(f"{len(bursts['groups'])} bursts; {bursts['spare']} of {bursts['compared']} pictures could be spared")
for group in bursts["groups"][:2]:
    notes = [f"{one['captured_at'][11:]}\n{one['distance']:.4f}" for one in group["pictures"]]
    show([one["path"] for one in group["pictures"]], notes, short(group["pictures"][0]["path"]))

# %% [markdown]
# ## What is in quarantine
#
# A file that cannot be used is a row there, with the reason. Once the cause is fixed,
# `python -m streaming quarantine retry` has it read again.

# %%
quarantine = pd.read_parquet(OUTPUT / "quarantine")
quarantine["picture"] = quarantine["path"].map(short)
quarantine[["picture", "reason", "detail", "length"]].sort_values("reason").reset_index(drop=True)

# %% [markdown]
# ## The model on one picture
#
# `load_model` is for any Python program, without Spark, and gives to the bit what the stream would write. `featurize`
# takes bytes, too.

# %%
model = load_model(MODELS, table.model)  # without a version, the current one
path = rows.query("label == 'Orange' and day == 'tuesday'")["path"].iloc[-1]
picture = model.featurize(path)
print(model)
print(f"{picture.predicted_label}, {picture.confidence:.0%} sure; error {picture.reconstruction_error:.0f}")
print("the same bits as the table:", np.array_equal(picture.features, matrix[path]))
for near in table.nearest(picture, 4):
    print(f"{near.distance:.3f}  {short(near.path)}")

# %% [markdown]
# ## The model in Spark
#
# A bundle has scaler, PCA and classifier as a `PipelineModel` for any Spark, which needs nothing of this project. It
# turns embeddings, 1280 numbers a picture, into components and a label. (Spark needs Java; `make notebook` sees to it.)

# %%
from pyspark.ml import PipelineModel
from pyspark.ml.functions import array_to_vector, vector_to_array
from pyspark.sql import SparkSession

options = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false"}
spark = SparkSession.builder.master("local[1]").config(map=options).getOrCreate()
embeddings = spark.read.parquet(str((OUTPUT / "embeddings").resolve()))
pipeline = PipelineModel.load(str((MODELS / table.model / "pipeline").resolve()))
made = pipeline.transform(embeddings.withColumn("features", array_to_vector("embedding")))
theirs = made.select("path", "predicted_label", vector_to_array("pca").alias("pca")).toPandas().set_index("path")
spark.stop()

theirs = theirs.loc[table.paths]
print("stages:", ", ".join(type(stage).__name__ for stage in pipeline.stages))
print("the same labels:", (theirs["predicted_label"].to_numpy() == rows["predicted_label"].to_numpy()).all())
print(f"largest difference of a component: {np.abs(np.stack(theirs['pca']) - table.features).max():.1e}")

# %% [markdown]
# ## Where to go from here
#
# - `python -m streaming similar PICTURE --table TABLE --html similar.html` makes a page of the nearest pictures, and
#   `duplicates` one of what can be spared: [insight.md](../insight.md).
# - A notebook that is saved keeps the pictures that it shows. After a `forget`, run it again, or clear its outputs.
# - On a cluster: [cluster.ipynb](cluster.ipynb).
# - What the columns and files are: [formats.md](../formats.md); when to refit: [drift.md](../drift.md).
