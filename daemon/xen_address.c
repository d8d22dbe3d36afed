// SPDX-License-Identifier: BSD-2-Clause
// Whose is an address? A guest reports those of its interfaces, and the broker believes what is on an interface that xenstore knows by its MAC.
// What an administrator assigned, in the interface's configuration or in rlm/addresses, is nobody else's, whoever claims it. Addresses that
// several domains report belong to all of them: private networks may be alike.
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netpacket/packet.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>
#include <utlist.h>

#include "log.h"
#include "xen_internal.h"

// --- broker

bool rlmd_address_valid(const struct rlmd_endpoint *endpoint)
{
	static const uint8_t zero[12];

	return endpoint->family == AF_INET6 || (endpoint->family == AF_INET && memcmp(endpoint->address + 4, zero, sizeof(zero)) == 0);
}

static bool listed(const struct rlmd_endpoint *list, unsigned count, const struct rlmd_endpoint *address)
{
	for (unsigned i = 0; i < count; i++)
		if (list[i].family == address->family && memcmp(list[i].address, address->address, sizeof(address->address)) == 0)
			return true;
	return false;
}

static const struct rlmd_guest *assigned_to_other(const struct rlmd_guest *guest, const struct rlmd_endpoint *address)
{
	const struct rlmd_guest *other;

	if (listed(guest->assigned, guest->assigned_count, address))
		return NULL;
	DL_FOREACH (guest->broker->xen->guests, other)
		if (other != guest && listed(other->assigned, other->assigned_count, address))
			return other;
	return NULL;
}

const struct rlmd_guest *rlmd_address_owner(const struct rlmd_guest *guest, const struct rlmd_endpoint *endpoint)
{
	const struct rlmd_guest *other = assigned_to_other(guest, endpoint);

	if (other || listed(guest->assigned, guest->assigned_count, endpoint) || listed(guest->address, guest->address_count, endpoint))
		return other;
	DL_FOREACH (guest->broker->xen->guests, other)
		if (other != guest && listed(other->address, other->address_count, endpoint))
			return other;
	return NULL;
}

static bool has_interface(const struct rlmd_guest *guest, const uint8_t *mac)
{
	char text[18];

	snprintf(text, sizeof(text), "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
	for (unsigned i = 0; i < guest->mac_count; i++)
		if (strcasecmp(guest->macs[i], text) == 0)
			return true;
	return false;
}

void rlmd_addresses_learn(struct rlmd_guest *guest, const struct rlmd_wire_hello *wire)
{
	guest->address_count = 0;
	for (uint32_t i = 0; i < wire->addresses && i < RLMD_WIRE_ADDRESSES; i++) {
		const struct rlmd_endpoint *address = &wire->address[i].endpoint;
		const struct rlmd_guest *owner;

		if (!rlmd_address_valid(address) || !has_interface(guest, wire->address[i].mac))
			continue;
		owner = assigned_to_other(guest, address);
		if (!owner)
			guest->address[guest->address_count++] = *address;
		else
			rlmd_event(&guest->broker->events, "foreign-address", guest->domain->name, owner->domain->name,
				   "it reports an address that is assigned to the other");
	}
}

void rlmd_addresses_assign(struct rlmd_guest *guest, const char *text)
{
	char word[INET6_ADDRSTRLEN];
	struct rlmd_endpoint address;
	int taken;

	for (; sscanf(text, " %45[^ ,]%n", word, &taken) == 1; text += taken + strspn(text + taken, " ,")) {
		memset(&address, 0, sizeof(address));
		address.family = strchr(word, ':') ? AF_INET6 : AF_INET;
		if (inet_pton(address.family, word, address.address) != 1)
			log_warn("%s: \"%s\" in xenstore is no address", guest->domain->name, word);
		else if (guest->assigned_count < RLMD_GUEST_ADDRESSES)
			guest->assigned[guest->assigned_count++] = address;
	}
}

// --- guest

static bool address_take(struct rlmd_endpoint *endpoint, const struct sockaddr *address)
{
	memset(endpoint, 0, sizeof(*endpoint));
	endpoint->family = address->sa_family;
	if (address->sa_family == AF_INET)
		memcpy(endpoint->address, &((const struct sockaddr_in *)address)->sin_addr, 4);
	else if (address->sa_family == AF_INET6)
		memcpy(endpoint->address, &((const struct sockaddr_in6 *)address)->sin6_addr, 16);
	else
		return false;
	return true;
}

static void mac_take(uint8_t *mac, const struct ifaddrs *list, const char *interface)
{
	memset(mac, 0, 6);
	for (; list; list = list->ifa_next)
		if (list->ifa_addr && list->ifa_addr->sa_family == AF_PACKET && strcmp(list->ifa_name, interface) == 0)
			memcpy(mac, ((const struct sockaddr_ll *)list->ifa_addr)->sll_addr, 6);
}

void rlmd_addresses_list(struct rlmd_wire_hello *wire)
{
	struct ifaddrs *list = NULL;

	wire->addresses = 0;
	if (getifaddrs(&list))
		return;
	for (struct ifaddrs *at = list; at && wire->addresses < RLMD_WIRE_ADDRESSES; at = at->ifa_next) {
		struct rlmd_wire_address *address = &wire->address[wire->addresses];

		if (!at->ifa_addr || at->ifa_flags & IFF_LOOPBACK || !address_take(&address->endpoint, at->ifa_addr))
			continue;
		mac_take(address->mac, list, at->ifa_name);
		wire->addresses++;
	}
	freeifaddrs(list);
}

static void (*addresses_changed)(struct rlmd_broker *broker);

static void on_netlink(struct ev_loop *loop, ev_io *io, int events)
{
	char packet[8192];

	// What it says does not matter, nor whether some of it was lost: we look for ourselves.
	while (recv(io->fd, packet, sizeof(packet), MSG_DONTWAIT) > 0)
		;
	addresses_changed(io->data);
}

void rlmd_addresses_watch(struct rlmd_broker *broker, void (*changed)(struct rlmd_broker *broker))
{
	struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);

	addresses_changed = changed;
	ev_io_init(&broker->xen->addresses, on_netlink, fd, EV_READ);
	broker->xen->addresses.data = broker;
	if (fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		ev_io_start(broker->loop, &broker->xen->addresses);
	else
		log_warn("cannot follow the changes of addresses");
}

void rlmd_addresses_unwatch(struct rlmd_broker *broker)
{
	ev_io_stop(broker->loop, &broker->xen->addresses);
	rlmd_parts_close(&broker->xen->addresses.fd, 1);
}
