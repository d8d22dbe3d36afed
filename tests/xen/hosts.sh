# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=bash disable=SC2034,SC2154
# Two emulated machines that are two Xen hosts, for live migration. Sourced by migrate.sh after bed.sh.
#
#   hosts_start DIRECTORY   dom0 (host A) with u1 and u2, which are PVH; and hostb (dom0 of host B)
#   hosts_stop
#
# Their bridges are one network, so that a domain keeps its address and its connections when it moves. Beside it the two dom0s have a network of
# their own, 10.9.0.10 and 10.9.0.20, for what migrations carry. The agents of all are behind ports of host A.

bed_address[hostb]=10.0.2.20

# In place of bed.sh's: one processor each, and two more interfaces. bed_host says which machine it is. QEMU takes two commas for one.
bed_qemu() {
	local host ports arguments network forward=''
	if [ "$bed_host" = a ]; then
		read -ra ports < <(bed_ports $((${#bed_address[@]} + 2)))
		hosts_ports=("${ports[@]:0:2}")
		ports=("${ports[@]:2}")
		for host in "${!bed_address[@]}"; do
			bed_port[$host]=${ports[0]}
			forward+=",hostfwd=tcp:127.0.0.1:${ports[0]}-${bed_address[$host]}:7777"
			ports=("${ports[@]:1}")
		done
		network=(-netdev "user,id=net,net=10.0.2.0/24,restrict=on$forward" -device virtio-net-pci,netdev=net
			-netdev "socket,id=link,listen=127.0.0.1:${hosts_ports[0]}" -device virtio-net-pci,netdev=link,mac=52:54:00:00:0a:01
			-netdev "socket,id=private,listen=127.0.0.1:${hosts_ports[1]}" -device virtio-net-pci,netdev=private,mac=52:54:00:00:0a:02)
		arguments='rlm.bridge=eth0,,eth1 rlm.private=eth2'
	else
		network=(-netdev "socket,id=link,connect=127.0.0.1:${hosts_ports[0]}" -device virtio-net-pci,netdev=link,mac=52:54:00:00:0b:01
			-netdev "socket,id=private,connect=127.0.0.1:${hosts_ports[1]}" -device virtio-net-pci,netdev=private,mac=52:54:00:00:0b:02)
		arguments='rlm.address=10.0.2.20 rlm.outside= rlm.private=eth1'
	fi
	qemu-system-x86_64 -machine pc -accel tcg,thread=multi,tb-size=512 -cpu qemu64,+npt -smp 1 -m 1280 \
		-nodefaults -display none -no-reboot -serial "file:$bed/console" -monitor "unix:$bed/monitor,server,nowait" \
		-kernel "$bed_images/xen" \
		-append "com1=115200,8n1 console=com1 dom0_mem=512M,max:512M dom0_max_vcpus=1 spec-ctrl=no xpti=no loglvl=warning guest_loglvl=info" \
		-initrd "$bed_images/vmlinux console=hvc0 quiet mitigations=off $arguments,$bed_images/dom0.cpio" \
		-device virtio-rng-pci "${network[@]}" "$@" >"$bed/qemu.log" 2>&1 </dev/null &
	bed_qemu=$!
	hosts_qemu+=("$bed_qemu")
}

hosts_start() {
	local directory=$1
	hosts_qemu=()
	bed_host=a
	mkdir -p "$directory/a" "$directory/b"
	bed_start "$directory/a" pvh || return 1
	bed_host=b bed_dom0=hostb bed_domains=()
	bed_start "$directory/b" pvh || return 1
	bed_dom0=dom0 bed_domains=(u1 u2)
	# As hosts are set up that have busy domains, or a migration and all networking wait for these.
	on dom0 'xl sched-credit2 -d 0 -w 4096' && on hostb 'xl sched-credit2 -d 0 -w 4096'
}

hosts_stop() {
	[ ${#hosts_qemu[@]} = 0 ] || kill "${hosts_qemu[@]}" 2>/dev/null
	for bed_qemu in "${hosts_qemu[@]}"; do
		wait "$bed_qemu" 2>/dev/null
	done
	hosts_qemu=()
}
