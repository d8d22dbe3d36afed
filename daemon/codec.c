// SPDX-License-Identifier: BSD-2-Clause
#include "codec.h"

#include <string.h>

#include "rlm/stat.h"

struct shape {
	uint16_t type;
	uint16_t size;
	uint8_t fds_min;
	uint8_t fds_max;
};

// What processes may send. TEXT has a variable size and is checked by itself.
static const struct shape shapes[] = {
    {RLM_MSG_HELLO, sizeof(struct rlm_msg_hello), 1, 2},       {RLM_MSG_OFFER, sizeof(struct rlm_msg_offer), 1, 1},
    {RLM_MSG_WITHDRAW, sizeof(struct rlm_msg_withdraw), 0, 0}, {RLM_MSG_RELEASE, sizeof(struct rlm_msg_release), 0, 0},
    {RLM_MSG_REPAIR, sizeof(struct rlm_msg_repair), 1, 1},     {RLM_MSG_LEFT, sizeof(struct rlm_msg_left), 0, 0},
    {RLM_MSG_KEPT, sizeof(struct rlm_msg_kept), 0, 0},
};

static enum rlmd_check bad(const char **problem, const char *what)
{
	*problem = what;
	return RLMD_CHECK_BAD;
}

static enum rlmd_check text_check(const struct rlm_msg_text *text, size_t size, size_t fds, const char **problem)
{
	size_t head = offsetof(struct rlm_msg_text, text);

	if (size < head || size > sizeof(*text))
		return bad(problem, "text message of impossible size");
	if (text->length > RLM_TEXT_CHUNK || text->length > size - head)
		return bad(problem, "text longer than its message");
	if (text->more > 1)
		return bad(problem, "text with an impossible \"more\"");
	if (fds)
		return bad(problem, "text with descriptors");
	return RLMD_CHECK_OK;
}

static enum rlmd_check fields_check(const union rlm_msg *msg, const char **problem)
{
	switch (msg->header.type) {
	case RLM_MSG_OFFER:
		if (msg->offer.how != RLM_NAME_TUPLE && msg->offer.how != RLM_NAME_ISN)
			return bad(problem, "offer with an unknown way of naming");
		if (msg->offer.how == RLM_NAME_ISN && msg->offer.ticket >= RLM_TICKETS)
			return bad(problem, "offer with an impossible ticket");
		break;
	case RLM_MSG_RELEASE:
		if (msg->release.side > 1)
			return bad(problem, "release of an impossible side");
		break;
	case RLM_MSG_LEFT:
		if (msg->left.side > 1)
			return bad(problem, "an impossible side left");
		break;
	case RLM_MSG_KEPT:
		if (msg->kept.side > 1)
			return bad(problem, "an impossible side kept");
		break;
	}
	return RLMD_CHECK_OK;
}

enum rlmd_check rlmd_msg_check(const union rlm_msg *msg, size_t size, size_t fds, const char **problem)
{
	*problem = NULL;
	if (size < sizeof(msg->header) || size > RLM_MSG_MAX)
		return bad(problem, "message shorter than its header, or too long");
	if (msg->header.size != size)
		return bad(problem, "header and packet disagree about the size");
	if (msg->header.type == RLM_MSG_REQUEST)
		return text_check(&msg->text, size, fds, problem);
	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		if (shapes[i].type != msg->header.type)
			continue;
		if (size != shapes[i].size)
			return bad(problem, "wrong size for its type");
		if (fds < shapes[i].fds_min || fds > shapes[i].fds_max)
			return bad(problem, "wrong number of descriptors");
		return fields_check(msg, problem);
	}
	if (msg->header.type >= RLM_MSG_HELLO && msg->header.type <= RLM_MSG_REPLY)
		return bad(problem, "message that only a broker may send");
	return RLMD_CHECK_IGNORE;
}

void rlmd_text_clean(char *to, size_t size, const char *from, size_t from_size)
{
	size_t i;

	for (i = 0; i + 1 < size && i < from_size && from[i]; i++)
		to[i] = from[i] >= 0x20 && from[i] < 0x7f ? from[i] : '?';
	memset(to + i, 0, size - i);
}
