#!/bin/sh
# After an installation or an update: deb calls it with "configure" and the old
# version, rpm with the number of versions there are then.
set -e
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload
# Only on the first installation: what is set by hand later stays.
if [ "$1" = 1 ] || { [ "$1" = configure ] && [ -z "$2" ]; }; then
	sysctl -q -p /usr/lib/sysctl.d/60-kiloport.conf || true
	exit 0
fi
# An update restarts the tunnels, which hand over all they have: no connection ends.
systemctl try-restart 'kiloport@*.service' 'kiloport-attach@*.service' || true
