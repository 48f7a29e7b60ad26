#!/usr/bin/env bash
# Installs the real peers that the tests talk to; where it may not, says exactly what to install.
set -u
declare -A package=([systemd-analyze]=systemd [promtool]=prometheus [prometheus]=prometheus [nginx]=nginx [openssl]=openssl [chromium]=chromium [pdftoppm]=poppler-utils [node]=nodejs [unshare]=util-linux [Orthanc]=orthanc [storescu]=dcmtk [dsrdump]=dcmtk [dciodvfy]=dicom3tools [dcentvfy]=dicom3tools [rsyslogd]=rsyslog)
missing=()
for program in "${!package[@]}"; do
  command -v "$program" >/dev/null 2>&1 || missing+=("${package[$program]}")
done
[ -e /usr/share/orthanc/plugins/libOrthancDicomWeb.so ] || missing+=(orthanc-dicomweb)
[ -e /usr/share/orthanc/plugins/libOrthancPython.so ] || missing+=(orthanc-python)
compgen -G '/usr/lib/*/rsyslog/lmnsd_gtls.so' >/dev/null || missing+=(rsyslog-gnutls)
[ ${#missing[@]} -eq 0 ] && exit 0
mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "installing ${missing[*]}"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null && exit 0
fi
echo "The tests need these Debian packages and can't install them here: ${missing[*]}"
echo "As root: apt-get update && apt-get install -y ${missing[*]}"
exit 1
