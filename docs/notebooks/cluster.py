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
# # The same on a cluster
#
# For a table on S3, made by `python -m conf.emr` ([emr.md](../emr.md)). It runs where AWS credentials allow to read the
# output bucket: in a workspace of EMR Studio, or on your own machine.
#
# **It has no outputs, as none of it has run on AWS.** A test has DuckDB answer the SQL as it stands, hands the answers
# over as Athena would, and has `read_table` read a local export.

# %%
import time

import boto3
import pandas as pd

from streaming.api import read_table

WORKGROUP = "picture-features"  # the name of the stack
OUTPUT = "s3://picture-features-output-ACCOUNT-eu-west-3"  # `python -m conf.emr deploy` prints these two
MODELS = "s3://picture-features-models-ACCOUNT-eu-west-3/models"

# %% [markdown]
# ## Athena
#
# `snapshot` has all rows in one model, as the nightly export leaves it; `features` has rows within seconds, each of the
# model of its time. Athena charges by the bytes that it reads: name few columns, and give a range of `date`.

# %%
DAYS = """
SELECT date, count(*) AS pictures, avg(reconstruction_error) AS error, max(reconstruction_error) AS worst
FROM picture_features.snapshot
WHERE date >= '2026-01-01'
GROUP BY date ORDER BY date
"""

CONFUSIONS = """
SELECT label, predicted_label, count(*) AS pictures, avg(confidence) AS confidence
FROM picture_features.snapshot
WHERE date >= '2026-01-01' AND predicted_label <> label
GROUP BY label, predicted_label ORDER BY pictures DESC LIMIT 20
"""

WORST_OF_EACH_LABEL = """
SELECT label, path, reconstruction_error, features[1] AS pc1, features[2] AS pc2
FROM (
    SELECT *, row_number() OVER (PARTITION BY label ORDER BY reconstruction_error DESC) AS place
    FROM picture_features.snapshot
    WHERE date >= '2026-01-01'
) AS ranked
WHERE place <= 3 ORDER BY label, place
"""

COPIES = """
SELECT sha256, count(*) AS pictures, min(path) AS first
FROM picture_features.snapshot
WHERE date >= '2026-01-01' AND sha256 IS NOT NULL
GROUP BY sha256 HAVING count(*) > 1 ORDER BY pictures DESC LIMIT 20
"""

REASONS = """
SELECT reason, count(*) AS pictures, max(date) AS latest
FROM picture_features.quarantine
WHERE date >= '2026-01-01'
GROUP BY reason ORDER BY pictures DESC
"""


# %%
def ask(sql):
    """The answer of Athena, whose values are text, after a second or two."""
    athena = boto3.client("athena")
    query = athena.start_query_execution(QueryString=sql, WorkGroup=WORKGROUP)["QueryExecutionId"]
    status = {"State": "QUEUED"}
    while status["State"] in ("QUEUED", "RUNNING"):
        time.sleep(0.5)
        status = athena.get_query_execution(QueryExecutionId=query)["QueryExecution"]["Status"]
    if status["State"] != "SUCCEEDED":
        raise RuntimeError(f"Athena: {status['State']}: {status.get('StateChangeReason')}")
    pages = athena.get_paginator("get_query_results").paginate(QueryExecutionId=query)
    cells = [row["Data"] for page in pages for row in page["ResultSet"]["Rows"]]
    names, *rows = [[cell.get("VarCharValue") for cell in row] for row in cells]
    return pd.DataFrame(rows, columns=names)


# %%
ask(DAYS)

# %%
ask(CONFUSIONS)

# %%
ask(WORST_OF_EACH_LABEL)

# %%
ask(COPIES)

# %%
ask(REASONS)

# %% [markdown]
# ## Without a cluster
#
# One machine is enough to look for neighbours: a million rows of 50 components are 200 MB. `read_table` reads the
# latest snapshot, `load_model` a model of the registry, as in [explore.ipynb](explore.ipynb).

# %%
table = read_table(f"{OUTPUT}/snapshots")
table.nearest(table.features[0], 5)

# %% [markdown]
# ## Spark, in EMR Studio
#
# Attach the workspace to an application of EMR Serverless, or to the cluster, and choose the kernel PySpark, which has
# `spark`. What follows needs nothing of this project: the model is a `PipelineModel` in the registry. `CURRENT` names
# the version to serve.

# %%
from pyspark.ml import PipelineModel
from pyspark.ml.functions import array_to_vector
from pyspark.sql import SparkSession

VERSION, BACKBONE = "20260131T235959Z-1a2b3c4d", "0123456789abcdef"  # as `models list` has them
spark = SparkSession.builder.getOrCreate()  # the kernel's
embeddings = spark.read.parquet(f"{OUTPUT}/table/embeddings").where(f"backbone = '{BACKBONE}'")
pipeline = PipelineModel.load(f"{MODELS}/{VERSION}/pipeline")
made = pipeline.transform(embeddings.withColumn("features", array_to_vector("embedding")))
made.select("path", "pca").show()
