# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=bash
# The test bed: one emulated machine with real Xen, dom0 and two domUs, u1 and u2. Sourced by run.sh.
#
#   bed_start DIRECTORY TYPE     has them running, TYPE is pvh or pv. The first time it boots them and keeps the state beside the images,
#                                later it goes on from there, which takes seconds. DIRECTORY is the caller's, for scratch files
#   on HOST SCRIPT               runs a shell script in dom0, u1 or u2, exits with its status
#   bed_install FILE...          copies programs to /opt of all three, which is in PATH, and libraries that they need and the images lack
#   bed_create NAME              creates a domain again that was destroyed
#   bed_stop
#
# All are in 10.0.2.0/24: dom0 is 10.0.2.10, u1 and u2 are 10.0.2.11 and 10.0.2.12. Their agents are behind ports of 127.0.0.1.

declare -A bed_port
declare -A bed_address=([dom0]=10.0.2.10 [u1]=10.0.2.11 [u2]=10.0.2.12)
bed_domains=(u1 u2)
bed_dom0=dom0 # of the machine that is being started
bed_boot_seconds=${RLM_XEN_BOOT_SECONDS:-1200}

bed_say() {
	printf '[%4d s] %s\n' $((SECONDS - bed_started)) "$*"
}

on() {
	local host=$1
	shift
	"$here/on.py" -t "${on_timeout:-600}" "${bed_port[$host]:?no such host: $host}" "$@"
}

# Ports of 127.0.0.1 that nobody has now.
bed_ports() {
	python3 -c '
import socket, sys
held = [socket.socket() for _ in range(int(sys.argv[1]))]
for s in held: s.bind(("127.0.0.1", 0))
print(*[s.getsockname()[1] for s in held])' "$1"
}

# bed_qemu OPTION...: the same machine with every start, or the state does not fit.
bed_qemu() {
	local ports forward='' host i=0
	read -ra ports < <(bed_ports ${#bed_address[@]})
	for host in dom0 "${bed_domains[@]}"; do
		bed_port[$host]=${ports[i]}
		forward+=",hostfwd=tcp:127.0.0.1:${ports[i]}-${bed_address[$host]}:7777"
		i=$((i + 1))
	done
	# qemu64 with nested paging is what the stock hypervisor takes PVH guests on.
	qemu-system-x86_64 -machine pc -accel tcg,thread=multi,tb-size=512 -cpu qemu64,+npt -smp "$bed_processors" -m 1536 \
		-nodefaults -display none -no-reboot -serial "file:$bed/console" -monitor "unix:$bed/monitor,server,nowait" \
		-kernel "$bed_images/xen" \
		-append "com1=115200,8n1 console=com1 dom0_mem=512M,max:512M dom0_max_vcpus=$bed_processors spec-ctrl=no xpti=no loglvl=warning guest_loglvl=info" \
		-initrd "$bed_images/vmlinux console=hvc0 quiet mitigations=off,$bed_images/dom0.cpio" \
		-device virtio-rng-pci -netdev "user,id=net,net=10.0.2.0/24,restrict=on$forward" -device virtio-net-pci,netdev=net \
		"$@" >"$bed/qemu.log" 2>&1 </dev/null &
	bed_qemu=$!
}

bed_monitor() {
	python3 "$here/monitor.py" "$bed/monitor" "$@"
}

# Has the host said in its console that it is up? Attempts to connect before that are kept by QEMU, and come all at once when it is.
bed_ready() {
	if [ "$1" != "$bed_dom0" ]; then
		on_timeout=$bed_boot_seconds on "$bed_dom0" "until grep -q DOMU-READY /tmp/guest-$1.log; do sleep 0.5; done"
	elif [ "$bed_kept" = no ]; then
		local end=$((SECONDS + bed_boot_seconds))
		until grep -q DOM0-READY "$bed/console" 2>/dev/null; do
			[ $SECONDS -lt $end ] && kill -0 "$bed_qemu" || return 1
			sleep 0.5
		done
	fi
}

bed_answers() {
	bed_ready "$1" && "$here/on.py" -w "$bed_boot_seconds" "${bed_port[$1]}" true
}

# Boots everything and keeps it in $1.
bed_boot() {
	local state=$1 type=$2 name
	rm -rf "$state.new"
	mkdir -p "$state.new"
	qemu-img create -q -f qcow2 -F raw -b "$bed_images/dom0.ext4" "$state.new/disk" || return 1
	bed_say "booting Xen under QEMU: once, until the images change"
	bed_qemu -drive "if=virtio,format=qcow2,file=$state.new/disk"
	bed_answers "$bed_dom0" || {
		echo "$bed_dom0 does not answer; the console's end:"
		tail -n 20 "$bed/console" "$bed/qemu.log"
		return 1
	}
	bed_say "$bed_dom0 is up: $(on "$bed_dom0" 'xl info xen_version; uname -r' | xargs)"
	for name in "${bed_domains[@]}"; do
		bed_config "$name" "$type" && bed_create "$name" || return 1
	done
	# QEMU cannot load a state that it saved while a processor ran a PVH guest.
	on "$bed_dom0" "sync; for name in ${bed_domains[*]}; do xl pause \$name; done" || return 1
	bed_say "keeping this state"
	bed_monitor stop "migrate_set_parameter max-bandwidth 0" "migrate \"exec:cat >'$state.new/memory'\"" >/dev/null || return 1
	until bed_monitor "info migrate" | grep -q 'status: completed'; do
		kill -0 "$bed_qemu" || return 1
		sleep 1
	done
	bed_monitor quit >/dev/null
	wait "$bed_qemu"
	rm -rf "$state"
	mv "$state.new" "$state"
	qemu-img rebase -q -u -f qcow2 -F raw -b "$bed_images/dom0.ext4" "$state/disk"
}

bed_start() {
	local type=$2 state name
	bed_started=$SECONDS
	bed=$1
	bed_images=$("$here/images.sh") || return 1
	# One where there are PVH domains: with two, each interrupts the other at moments in which QEMU ends domains, see ARCHITECTURE.md.
	bed_processors=2
	[ "$type" = pv ] || bed_processors=1
	bed_kept=no
	state=$bed_images/${bed_host:-bed}-$type-$(declare -f bed_qemu bed_config bed_boot | sha256sum | cut -c 1-8)
	exec {bed_lock}>"$bed_images/../lock"
	flock "$bed_lock"
	[ -e "$state/memory" ] || { rm -rf "${state%-*}"-* && bed_boot "$state" "$type"; } || return 1
	exec {bed_lock}>&-
	bed_kept=yes
	bed_qemu -drive "if=virtio,format=qcow2,file=$state/disk,snapshot=on" -incoming "exec:cat '$state/memory'"
	# It was kept stopped.
	until bed_monitor "info status" 2>/dev/null | grep -q 'status: paused$'; do
		kill -0 "$bed_qemu" 2>/dev/null || {
			echo "QEMU does not go on from the kept state:"
			cat "$bed/qemu.log"
			return 1
		}
		sleep 0.2
	done
	bed_monitor cont >/dev/null
	# QEMU's main thread is not to be interrupted between a device's interrupt and the kick that tells of it, see ARCHITECTURE.md.
	chrt --fifo --pid 1 "$bed_qemu" 2>/dev/null
	bed_answers "$bed_dom0" && on "$bed_dom0" "for name in ${bed_domains[*]}; do xl unpause \$name; done" || return 1
	for name in "${bed_domains[@]}"; do
		bed_answers "$name" || return 1
	done
	bed_say "Xen $(on "$bed_dom0" 'xl info xen_version'), $bed_dom0 ${bed_domains[*]} ($type) are running"
}

# Leaves the domain's configuration in dom0's /tmp.
bed_config() {
	local name=$1 type=$2
	on dom0 "cat >/root/$name.cfg <<END
name = \"$name\"
type = \"$type\"
kernel = \"/rlm/vmlinux\"
ramdisk = \"/rlm/domu.cpio\"
extra = \"console=hvc0 quiet mitigations=off rlm.name=$name rlm.address=${bed_address[$name]}\"
memory = 192
vcpus = 1
vif = [ \"mac=00:16:3e:00:00:${bed_address[$name]##*.},bridge=xenbr0,script=/rlm/vif\" ]
on_crash = \"destroy\"
END"
}

bed_create() {
	local name=$1
	on_timeout=$bed_boot_seconds on dom0 "xl create -q /root/$name.cfg" || return 1
	bed_answers "$name" || {
		echo "$name does not answer; its console's end:"
		on dom0 "tail -n 20 /tmp/guest-$name.log; xl list"
		return 1
	}
	bed_say "$name is up"
}

bed_install() {
	local name unpack libraries taker status=0
	mapfile -t libraries < <(ldd "$@" 2>/dev/null | awk '$2 == "=>" { print $3 }' | sort -u)
	unpack='tar -x -m -z -C /opt && cd /opt && for file in *.so.[0-9]*; do
		[ -e /lib/x86_64-linux-gnu/$file ] || [ -e /usr/lib/x86_64-linux-gnu/$file ] || cp $file /lib/x86_64-linux-gnu/
		rm $file
	done'
	{
		echo 'mkdir -p /opt && base64 -d >/tmp/install.tar.gz <<END'
		tar -c -z -h --transform 's,.*/,,' "$@" "${libraries[@]}" 2>/dev/null | base64
		echo 'END'
		echo "cat /tmp/install.tar.gz | { $unpack; }"
	} | on_timeout=300 on dom0 - || return 1
	for name in "${bed_domains[@]}"; do
		on_timeout=300 on "$name" "mkdir -p /opt && { grep -q ' /opt ' /proc/mounts || mount -t tmpfs tmpfs /opt; } && socat -u TCP-LISTEN:7000,reuseaddr - | { $unpack; }" &
		taker=$!
		on_timeout=300 on dom0 "socat -u OPEN:/tmp/install.tar.gz,rdonly TCP:${bed_address[$name]}:7000,retry=1000,interval=0.1" || status=1
		wait "$taker" || status=1
	done
	return $status
}

bed_stop() {
	[ -n "${bed_qemu:-}" ] || return 0
	kill "$bed_qemu" 2>/dev/null
	wait "$bed_qemu" 2>/dev/null
	bed_qemu=
}
