// SPDX-License-Identifier: BSD-2-Clause
#include "xen_wire.h"

static size_t size_min(uint16_t type)
{
	static const size_t sizes[] = {
	    [RLMD_WIRE_HELLO] = sizeof(struct rlmd_wire_hello),
	    [RLMD_WIRE_WELCOME] = sizeof(struct rlmd_wire_welcome),
	    [RLMD_WIRE_CLIENT] = sizeof(struct rlmd_wire_client),
	    [RLMD_WIRE_GONE] = sizeof(struct rlmd_wire_header),
	    [RLMD_WIRE_OFFER] = sizeof(struct rlmd_wire_offer),
	    [RLMD_WIRE_MESSAGE] = offsetof(struct rlmd_wire_message, msg) + sizeof(struct rlm_msg_header),
	    [RLMD_WIRE_HALF] = sizeof(struct rlmd_wire_half),
	    [RLMD_WIRE_ASK] = offsetof(struct rlmd_wire_text, text),
	    [RLMD_WIRE_TELL] = offsetof(struct rlmd_wire_text, text),
	    [RLMD_WIRE_STATE] = sizeof(struct rlmd_wire_state),
	    [RLMD_WIRE_CLOSE] = sizeof(struct rlmd_wire_header),
	    [RLMD_WIRE_RESUME] = sizeof(struct rlmd_wire_header),
	};

	return type < sizeof(sizes) / sizeof(sizes[0]) ? sizes[type] : 0;
}

long rlmd_wire_missing(const union rlmd_wire *wire, size_t got)
{
	size_t head = sizeof(wire->header);

	if (got < head)
		return (long)(head - got);
	if (wire->header.size < head || wire->header.size > sizeof(*wire))
		return -1;
	return (long)(wire->header.size - got);
}

bool rlmd_wire_valid(const union rlmd_wire *wire)
{
	size_t least = size_min(wire->header.type);

	if (!least || wire->header.size < least || wire->header.size > sizeof(*wire))
		return false;
	if (wire->header.type == RLMD_WIRE_MESSAGE)
		return wire->message.msg.header.size == wire->header.size - offsetof(struct rlmd_wire_message, msg);
	if (wire->header.type == RLMD_WIRE_ASK || wire->header.type == RLMD_WIRE_TELL)
		return wire->text.length == wire->header.size - least;
	return true;
}
