#!/usr/bin/env bash
# Builds the image, tries it out and says how large it is: `make image`, or docker/build-image.sh.
#
#   COMPUTE=cpu|cuda      cuda unless said; cpu needs TORCH_INDEX, or wheels of PyTorch in docker/wheels
#   TORCH_INDEX=ADDRESS   a package index that PyTorch alone is taken from
#   BASE=IMAGE            another base image
#   TAG=NAME              the image's name; dicom-gam:local unless said, the one that compose.yml uses
#   ENGINE=docker|podman|buildah
#   PIP_CONFIG_FILE, PIP_CERT and the proxy variables are passed on, where set; none of it stays in the image.
#
# Without an engine, buildah builds on a base that debootstrap makes, and runc runs what came out. Needs root.
set -euo pipefail
cd "$(dirname "$0")/.."
readonly COMPUTE=${COMPUTE:-cuda} TORCH_INDEX=${TORCH_INDEX:-} TAG=${TAG:-dicom-gam:local}
readonly LOCAL_BASE=localhost/dicom-gam-base:bookworm STORE=$PWD/build/containers

fail() {
  echo "build-image.sh: $*" >&2
  exit 1
}

# Docker and Podman bring all that is needed; the docker command alone, without its engine, is of no use.
find_engine() {
  local engine
  for engine in docker podman; do
    if command -v "$engine" >/dev/null && "$engine" info >/dev/null 2>&1; then
      echo "$engine"
      return
    fi
  done
  echo buildah
}

require_packages() {
  local program missing=()
  for program in buildah debootstrap runc; do
    command -v "$program" >/dev/null || missing+=("$program")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null && return 0
  fi
  fail "there is no Docker and no Podman here, and without them these Debian packages are needed: ${missing[*]}
As root: apt-get update && apt-get install -y ${missing[*]}"
}

storage_driver() {
  if buildah --root "$STORE" --runroot "$STORE.run" --storage-driver overlay info >/dev/null 2>&1; then
    echo overlay
  else
    echo vfs # copies every layer in full, and works everywhere
  fi
}

# A Debian base with Python, made once and kept.
make_local_base() {
  local root=build/base archive=build/base.tar
  "${buildah[@]}" inspect --type image "$LOCAL_BASE" >/dev/null 2>&1 && return 0
  if [ ! -e "$archive" ]; then
    echo "making a base image of Debian bookworm; this is done once"
    rm -rf "$root"
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$root" \
      >build/base.log 2>&1 ||
      fail "debootstrap failed, see build/base.log: $(tail -n 1 build/base.log)"
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* \
      "$root"/usr/share/{doc,man,info,locale}/*
    tar --directory="$root" --numeric-owner --sort=name --create --file="$archive.part" .
    mv "$archive.part" "$archive"
    rm -rf "$root"
  fi
  local container
  container=$("${buildah[@]}" from scratch)
  "${buildah[@]}" add --quiet "$container" "$archive" / >/dev/null
  "${buildah[@]}" commit --quiet --rm "$container" "$LOCAL_BASE" >/dev/null
}

# What the site's own set-up has to say to pip, for the time of the build only.
secrets() {
  local certificates=${PIP_CERT:-${SSL_CERT_FILE:-}} configuration=${PIP_CONFIG_FILE:-/etc/pip.conf}
  [ ! -s "$certificates" ] || printf '%s\n' --secret "id=ca.pem,src=$certificates"
  [ ! -s "$configuration" ] || printf '%s\n' --secret "id=pip.conf,src=$configuration"
}

build() {
  local arguments=() variable
  mapfile -t arguments < <(secrets)
  [ -z "${BASE:-}" ] || arguments+=(--build-arg "BASE=$BASE")
  for variable in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
    [ -z "${!variable:-}" ] || arguments+=(--build-arg "$variable")
  done
  arguments+=(
    --build-arg "COMPUTE=$COMPUTE" --build-arg "TORCH_INDEX=$TORCH_INDEX"
    --build-arg "VERSION=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' dicom_gam/__init__.py)"
    --build-arg "REVISION=$(git describe --always --dirty 2>/dev/null || echo unknown)"
    --file docker/Dockerfile --tag "$TAG"
  )
  case $engine in
    docker) DOCKER_BUILDKIT=1 docker build "${arguments[@]}" . ;;
    podman) podman build --format docker --ignorefile docker/Dockerfile.dockerignore "${arguments[@]}" . ;;
    buildah)
      "${buildah[@]}" bud --isolation chroot --layers=false --format docker \
        --ignorefile docker/Dockerfile.dockerignore "${arguments[@]}" .
      ;;
  esac
}

mkdir -p build
readonly engine=${ENGINE:-$(find_engine)}
buildah=()
if [ "$engine" = buildah ]; then
  require_packages
  mkdir -p "$STORE"
  buildah=(buildah --root "$STORE" --runroot "$STORE.run" --storage-driver "$(storage_driver)")
  if [ -z "${BASE:-}" ]; then
    make_local_base
    BASE=$LOCAL_BASE
  fi
fi
echo "building $TAG for $COMPUTE with ${buildah[*]:-$engine}"
SECONDS=0
build
echo "built in $SECONDS s"
bash docker/try-image.sh "$engine" "$TAG" "${buildah[@]}"
