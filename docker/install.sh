#!/bin/sh
# What the Dockerfile's stages do: install.sh libraries | node | system. Not for use outside an image.
set -eu
readonly HOME_OF_NODE=/opt/dicom-gam
readonly WHEELS=/build/wheels

# The site's own pip.conf and certificates, when the build was given them.
[ ! -s /run/secrets/pip.conf ] || export PIP_CONFIG_FILE=/run/secrets/pip.conf
[ ! -s /run/secrets/ca.pem ] || export PIP_CERT=/run/secrets/ca.pem
export PIP_FIND_LINKS=$WHEELS PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

say() {
  echo "install.sh: $*" >&2
}

# An environment without pip, filled by the pip of another one, which stays behind.
make_environment() {
  python3 -m venv --without-pip "$HOME_OF_NODE"
  python3 -m venv /build/installer
}

pip_install() {
  /build/installer/bin/pip --python "$HOME_OF_NODE/bin/python" install --no-compile --progress-bar off "$@"
}

# Byte code that does not depend on when it was made, as nothing can be written beside it later. A few packages carry
# files that no Python can compile (templates, samples for older versions): those stay as they are.
compile_all() {
  python3 -m compileall -q -q -j 0 --invalidation-mode unchecked-hash "$@" ||
    say "some files are no valid Python and stay uncompiled"
}

wheels_of_torch() {
  for wheel in "$WHEELS"/torch-*.whl "$WHEELS"/torchvision-*.whl; do
    [ ! -e "$wheel" ] || echo "$wheel"
  done
}

libraries() {
  torch=$(wheels_of_torch)
  if [ "$COMPUTE" = cpu ] && [ -z "$torch$TORCH_INDEX" ]; then
    say "COMPUTE=cpu needs PyTorch's own index of CPU builds, as PyPI has CUDA builds only:"
    say "--build-arg TORCH_INDEX=ADDRESS (it stands on the installation page of pytorch.org),"
    say "or put the wheels of torch and torchvision into docker/wheels."
    exit 1
  fi
  make_environment
  grep -Ev '^(torch|torchvision|triton|nvidia-|cuda-)' /build/requirements.txt > /build/libraries.txt
  pip_install --no-deps -r /build/libraries.txt
  torch=${torch:-$(grep -E '^torch(vision)?==' /build/requirements.txt)}
  # shellcheck disable=SC2086 # two words
  [ -z "$TORCH_INDEX" ] || pip_install --no-deps --index-url "$TORCH_INDEX" $torch
  grep -Ev '^torch(vision)?==' /build/requirements.txt > /build/constraints.txt
  # shellcheck disable=SC2086
  pip_install --constraint /build/constraints.txt $torch
  /build/installer/bin/pip --python "$HOME_OF_NODE/bin/python" check
  check_torch
  # What only tests and compilers need; no library is touched.
  find "$HOME_OF_NODE" -type d \( -name tests -o -path '*/torch/test' -o -path '*/torch/include' \) -prune \
    -exec rm -r {} +
  compile_all "$HOME_OF_NODE/lib"
}

check_torch() {
  cuda=$("$HOME_OF_NODE/bin/python" -c 'import torch; print(torch.version.cuda or "")')
  "$HOME_OF_NODE/bin/python" -c 'import torchvision' 2>/dev/null ||
    say "no torchvision: bundles of its architectures can't be loaded"
  case "$COMPUTE,$cuda" in
    cpu, | cuda,?*) say "PyTorch for ${cuda:+CUDA }${cuda:-CPUs}" ;;
    *)
      say "COMPUTE is $COMPUTE, but the PyTorch that was installed is for ${cuda:+CUDA }${cuda:-CPUs}"
      exit 1
      ;;
  esac
}

node() {
  make_environment
  pip_install --no-deps /build/source
  compile_all "$HOME_OF_NODE"/lib/python3.*/site-packages
  mkdir /node
  cp -a --parents "$HOME_OF_NODE/bin/dicom-gam" "$HOME_OF_NODE"/lib/python3.*/site-packages/dicom_gam* /node/
}

# The user, the volume's folder, and the byte code of the standard library, which Python's official images lack.
system() {
  groupadd --gid 10001 dicom-gam
  useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /tmp --shell /usr/sbin/nologin dicom-gam
  install -d -o 10001 -g 10001 -m 0700 /var/lib/dicom-gam
  install -d -m 0755 /etc/dicom-gam
  library=$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
  compile_all -x '/(test|tests|lib2to3|idlelib|site-packages|dist-packages)/' "$library"
}

"$1"
