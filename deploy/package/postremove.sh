#!/bin/sh
# After a removal. deb calls it once more with "purge", when the configurations go
# too: they hold keys that nobody else has, so that only purge takes them.
set -e
if [ "$1" = purge ]; then
	rm -rf /etc/kiloport
	rm -f /etc/systemd/system/*.wants/kiloport@*.service /etc/systemd/system/*.wants/kiloport-attach@*.service
fi
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload
