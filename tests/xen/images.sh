#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Makes what the test bed boots, from Debian packages: the stock hypervisor, one kernel, the root of dom0 and the ramdisk of domUs.
#
#   tests/xen/images.sh        prints the directory with the images, makes them if they are not there (about 2 minutes)
#
# Kept in ${XDG_CACHE_HOME:-/var/cache}/rlm-xen; made anew when this file or anything in guest/ changed. Nothing of Xen is installed here.
# Whoever makes something there holds the file "lock" in it.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
suite=bookworm
# In dom0 and, as far as domu_programs needs them, in domUs.
dom0_packages=(xen-utils-4.17 xen-utils-common xenstore-utils libxenmisc4.17 iproute2 kmod socat iperf3 redis-server redis-tools nginx-light curl
	procps strace libev4 libjansson4 libconfuse2 libpopt0 libcap-ng0 libncursesw6 libstdc++6 python3-minimal)
domu_programs=(/usr/bin/socat /usr/bin/iperf3 /usr/bin/redis-server /usr/bin/redis-cli /usr/bin/redis-benchmark /usr/sbin/nginx /usr/bin/curl
	/usr/bin/strace /usr/bin/xenstore-read /usr/bin/xenstore-write /usr/bin/xenstore-rm /usr/bin/xenstore-ls /usr/bin/ps)
# What the project's programs are linked with: they come with every boot.
domu_libraries=(libxenvchan libxenstore libxengnttab libxenevtchn libxentoollog libxentoolcore libev libjansson libconfuse libpopt
	libcap-ng libncursesw libtinfo libm libpthread)
dom0_modules=(xenfs xen-privcmd xen-evtchn xen-gntdev xen-gntalloc xen-netback bridge virtio_net)
domu_modules=(xen-netfront xenfs xen-privcmd xen-evtchn xen-gntdev xen-gntalloc)

say() {
	echo "xen images: $*" >&2
}

# The archive that this machine installs from.
mirror() {
	local found
	found=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' 2>/dev/null |
		awk -v suite=$suite '$2 == suite { print $1; exit }')
	[ -n "$found" ] || { say "apt has no archive of $suite among its sources"; exit 1; }
	echo "$found"
}

fetch() {
	local kernel
	mkdir -p debs
	kernel=$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-.*-amd64\)$/\1/p' | head -n 1)
	[ -n "$kernel" ] || { say "apt knows no linux-image-amd64"; exit 1; }
	say "downloading $kernel and the hypervisor"
	(cd debs && apt-get download -qq "$kernel" xen-hypervisor-4.17-amd64)
	for deb in debs/*.deb; do
		dpkg-deb -x "$deb" unpacked
	done
	release=${kernel#linux-image-}
	zcat unpacked/boot/xen-4.17-amd64.gz >"$out/xen"
	python3 "$here/vmlinux.py" "unpacked/boot/vmlinuz-$release" "$out/vmlinux"
	depmod -b "$PWD/unpacked" "$release"
}

# modules DIRECTORY NAME...: copies modules and what they depend on, and writes the order to load them.
modules() {
	local directory=$1 name file
	shift
	mkdir -p "$directory"
	for name in "$@"; do
		modprobe -d "$PWD/unpacked" -S "$release" --show-depends "$name" 2>/dev/null || say "no module $name, built in perhaps"
	done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r file; do
		cp "$file" "$directory/"
		basename "$file" >>"$directory/order"
	done
}

pack() {
	(cd "$1" && find . | LC_ALL=C sort | cpio -o -H newc --quiet) >"$2"
}

dom0_root() {
	say "installing the root of dom0"
	debootstrap --variant=minbase --include=busybox-static $suite root "$(mirror)" >debootstrap.log
	printf '#!/bin/sh\nexit 101\n' >root/usr/sbin/policy-rc.d
	chmod +x root/usr/sbin/policy-rc.d
	cp /etc/resolv.conf root/etc/
	if [ -e /etc/apt/sources.list.d/debian.sources ]; then
		rm -f root/etc/apt/sources.list
		cp /etc/apt/sources.list.d/debian.sources root/etc/apt/sources.list.d/
	fi
	chroot root sh -c "apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends ${dom0_packages[*]}" \
		>chroot.log 2>&1 || { tail -n 20 chroot.log >&2; exit 1; }
	rm -rf root/var/cache/apt/* root/var/lib/apt/lists/* root/usr/share/doc root/usr/share/man root/usr/share/locale
}

dom0_ramdisk() {
	mkdir -p ram0/bin ram0/proc ram0/dev ram0/new
	cp root/bin/busybox ram0/bin/
	modules ram0/modules virtio_pci virtio_blk ext4
	cp "$here/guest/dom0-ramdisk" ram0/init
	pack ram0 "$out/dom0.cpio"
}

dom0_disk() {
	mkdir -p root/rlm
	modules root/rlm/modules "${dom0_modules[@]}"
	cp "$here/guest/dom0" "$here/guest/agent" "$here/guest/vif" "$out/vmlinux" "$out/domu.cpio" root/rlm/
	truncate -s 1600M disk
	mke2fs -q -t ext4 -O ^has_journal,^metadata_csum -E lazy_itable_init=1 -d root disk
	mv disk "$out/dom0.ext4"
}

# Libraries that FILE in dom0's root needs, one a line.
needed() {
	chroot root ldd "$1" | sed -n 's/^[^/]*\(\/[^ ]*\) (.*/\1/p'
}

domu_ramdisk() {
	local program library list=()
	mkdir -p ram/{bin,sbin,proc,sys,dev,run,tmp,root,etc,lib64,opt} ram/usr/{bin,sbin,share} ram/var/{log,lib}/nginx
	cp root/bin/busybox ram/bin/
	for program in "${domu_programs[@]}"; do
		cp -L "root$program" "ram$program"
		mapfile -t -O ${#list[@]} list < <(needed "$program")
	done
	for library in "${domu_libraries[@]}"; do
		mapfile -t -O ${#list[@]} list < <(cd root && find usr/lib/x86_64-linux-gnu -maxdepth 1 -name "$library.so*" -printf '/%p\n' -o \
			-name "$library-[0-9]*.so*" -printf '/%p\n')
	done
	printf '%s\n' "${list[@]}" | sort -u | while read -r library; do
		mkdir -p "ram$(dirname "$library")"
		cp -L "root$library" "ram$library"
	done
	modules ram/modules "${domu_modules[@]}"
	cp "$here/guest/domu" ram/init
	cp "$here/guest/agent" ram/bin/agent
	printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\nwww-data:x:33:33::/:/bin/sh\n' >ram/etc/passwd
	printf 'root:x:0:\nnogroup:x:65534:\nwww-data:x:33:\n' >ram/etc/group
	echo '127.0.0.1 localhost' >ram/etc/hosts
	pack ram "$out/domu.cpio"
}

cache=${XDG_CACHE_HOME:-/var/cache}/rlm-xen
stamp=$(cat "${BASH_SOURCE[0]}" "$here/vmlinux.py" "$here"/guest/* | sha256sum | cut -c 1-16)
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
if [ ! -e "$cache/$stamp/done" ]; then
	out=$cache/$stamp
	find "$cache" -mindepth 1 -maxdepth 1 ! -name lock -exec rm -rf {} +
	mkdir -p "$out" "$cache/work"
	trap 'rm -rf "$cache/work"' EXIT
	cd "$cache/work"
	fetch
	dom0_root
	dom0_ramdisk
	domu_ramdisk
	dom0_disk
	cd /
	touch "$out/done"
	say "done: $(du -sh "$out" | cut -f 1) in $out"
fi
echo "$cache/$stamp"
