#!/bin/sh
# Before a removal (deb: "remove"; rpm: 0 versions left), but not before an update.
set -e
case "$1" in
remove | 0) ;;
*) exit 0 ;;
esac
[ -d /run/systemd/system ] || exit 0
systemctl stop 'kiloport@*.service' 'kiloport-attach@*.service' || true
