# An image with the stream, and with Java and Spark's client of S3:
#   docker build -t picture-features .
#   docker run --init -v /srv/pictures:/srv/pictures:ro -v /srv/features:/srv/features picture-features run \
#       --input /srv/pictures --models /srv/features/models --output /srv/features/table
# A picture is its path, so mount a folder where it is outside, too. `docker stop -t 300` lets it finish its
# micro-batch. LOCK=fit adds TensorFlow, to fit on other weights than converted ones (docker build --build-arg LOCK=fit).
#
# The image is built by CI on GitHub (.github/workflows/ci.yml). Where this was written no base image could be fetched:
# tests only look that the files, packages and commands that it names are those of this project.
FROM python:3.11-slim-bookworm

RUN apt-get update \
    && apt-get install --yes --no-install-recommends openjdk-17-jre-headless \
    && rm -rf /var/lib/apt/lists/*

ARG LOCK=run
COPY requirements/run.txt requirements/fit.txt /build/requirements/
RUN pip install --no-cache-dir --require-hashes -r /build/requirements/${LOCK}.txt

COPY pyproject.toml README.md LICENSE /build/
COPY conf /build/conf
COPY batch_fit /build/batch_fit
COPY streaming /build/streaming
RUN pip install --no-cache-dir --no-deps /build && rm -r /build \
    && python -m conf.spark.class_archive

# Log files go here, and Spark's temporary ones to /tmp: mount a disk there, where the container's own is small.
ENV XDG_STATE_HOME=/var/lib
RUN install --directory --mode 1777 /var/lib/picture-features
USER 1000:1000
STOPSIGNAL SIGTERM
ENTRYPOINT ["picture-features"]
CMD ["--help"]
