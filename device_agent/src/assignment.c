#include "assignment.h"

#include <string.h>

#include "cbor.h"
#include "roots.h"

enum { ENTRIES_MAX = 10, CHUNK_BYTES_MIN = 64, CHUNK_BYTES_MAX = 65536, DAY_MINUTES = 1440, UNKNOWN = 0xFF };
/* Integers on the wire stay below 2^53. */
#define UINT_MAX_WIRE ((UINT64_C(1) << 53) - 1U)

static const uint8_t SIGN1[] = {0xd2, 0x84, 0x4d, 0xa2, 0x01};
static const uint8_t UNPROTECTED[] = {0xa0};
static const uint8_t SIGNED_HEAD[] = {0x84, 0x6a, 'S', 'i', 'g', 'n', 'a', 't', 'u', 'r', 'e', '1', 0x4d, 0xa2, 0x01};
static const uint8_t SIGNED_MIDDLE[] = {0x40};

typedef struct {
    fleet_signature_t signature;
    const uint8_t *payload; /* with its byte string head */
    uint32_t payload_bytes;
    const uint8_t *content; /* without it */
    uint32_t content_bytes;
} sign1_t;

static bool open_sign1(const uint8_t *data, uint32_t bytes, sign1_t *message) {
    fleet_cbor_t in = fleet_cbor_reader(data, bytes);
    fleet_cbor_expect(&in, SIGN1, sizeof SIGN1);
    fleet_signature_read_header(&in, &message->signature);
    fleet_cbor_expect(&in, UNPROTECTED, sizeof UNPROTECTED);
    message->payload = in.at;
    message->content = fleet_cbor_bytes(&in, &message->content_bytes);
    message->payload_bytes = (uint32_t)(in.at - message->payload);
    message->signature.bytes = fleet_cbor_fixed(&in, FLEET_SIGNATURE_BYTES);
    return fleet_cbor_done(&in);
}

static bool signature_valid(const fleet_agent_t *agent, const sign1_t *message, uint8_t *scratch) {
    const fleet_crypto_t *crypto = agent->config.crypto;
    const fleet_key_t *key = fleet_key_find(&agent->root.director_keys, message->signature.kid);
    fleet_cbor_out_t out = fleet_cbor_writer(scratch, FLEET_MESSAGE_BYTES);
    fleet_cbor_put_raw(&out, SIGNED_HEAD, sizeof SIGNED_HEAD);
    fleet_signature_put_header(&out, &message->signature);
    fleet_cbor_put_raw(&out, SIGNED_MIDDLE, sizeof SIGNED_MIDDLE);
    fleet_cbor_put_raw(&out, message->payload, message->payload_bytes);
    return !out.full && fleet_signature_valid(crypto, key, &message->signature, scratch, out.used);
}

/* A fixed byte string copied out; false on any other item. */
static void copy_fixed(fleet_cbor_t *in, uint8_t *to, uint32_t bytes) {
    const uint8_t *data = fleet_cbor_fixed(in, bytes);
    if (data != NULL) {
        memcpy(to, data, bytes);
    }
}

static void read_window(fleet_cbor_t *in, fleet_entry_t *entry) {
    in->bad |= fleet_cbor_array(in) != 2;
    entry->window_start_min = (uint16_t)fleet_cbor_u32(in, DAY_MINUTES - 1);
    entry->window_minutes = (uint16_t)fleet_cbor_u32(in, DAY_MINUTES);
    in->bad |= entry->window_minutes == 0;
}

/* "model/0" .. as an index; UNKNOWN when this device has no such component. `order` makes components ascend. */
static uint8_t read_component(const fleet_agent_t *agent, fleet_cbor_t *in, uint32_t *order) {
    static const char prefix[] = "model/";
    uint32_t bytes;
    const char *text = fleet_cbor_text(in, &bytes);
    if (text == NULL || bytes == 0 || bytes > 16) {
        in->bad = true;
        return UNKNOWN;
    }
    if (bytes != sizeof prefix || memcmp(text, prefix, sizeof prefix - 1U) != 0 || text[6] < '0' || text[6] > '9') {
        return UNKNOWN;
    }
    const uint32_t index = (uint32_t)(text[6] - '0');
    in->bad |= index < *order;
    *order = index + 1U;
    return index < agent->config.components ? (uint8_t)index : UNKNOWN;
}

static bool entry_consistent(const fleet_entry_t *entry) {
    return (entry->until == FLEET_SLOT_STATE_SHADOW || entry->until == FLEET_SLOT_STATE_CONFIRMED) && entry->blob_bytes > 0 &&
           entry->chunk_bytes >= CHUNK_BYTES_MIN && (!entry->has_base || entry->codec == FLEET_CODEC_DELTA);
}

static void read_member(const fleet_agent_t *agent, fleet_cbor_t *in, uint64_t key, fleet_entry_t *entry, uint8_t *component,
                        uint32_t *order) {
    switch (key) {
        case FLEET_KEY_ASSIGNMENT_ENTRY_COMPONENT: *component = read_component(agent, in, order); break;
        case FLEET_KEY_ASSIGNMENT_ENTRY_MANIFEST_DIGEST: copy_fixed(in, entry->manifest, FLEET_DIGEST_BYTES); break;
        case FLEET_KEY_ASSIGNMENT_ENTRY_UNTIL: entry->until = (uint8_t)fleet_cbor_u32(in, UNKNOWN); break;
        case FLEET_KEY_ASSIGNMENT_ENTRY_CONFIRM_MIN_INFERENCES:
            entry->confirm_min_inferences = fleet_cbor_u32(in, UINT32_MAX);
            break;
        case FLEET_KEY_ASSIGNMENT_ENTRY_CONFIRM_TIMEOUT_S: entry->confirm_timeout_s = fleet_cbor_u32(in, UINT32_MAX); break;
        case FLEET_KEY_ASSIGNMENT_ENTRY_START_SPREAD_S: entry->start_spread_s = fleet_cbor_u32(in, UINT32_MAX); break;
        case FLEET_KEY_ASSIGNMENT_ENTRY_NOT_BEFORE: entry->not_before = fleet_cbor_uint(in); break;
        case FLEET_KEY_ASSIGNMENT_ENTRY_WINDOW: read_window(in, entry); break;
        case FLEET_KEY_ASSIGNMENT_ENTRY_BLOB: copy_fixed(in, entry->blob, FLEET_ID_BYTES); break;
        case FLEET_KEY_ASSIGNMENT_ENTRY_BLOB_BYTES: entry->blob_bytes = fleet_cbor_u32(in, UINT32_MAX); break;
        case FLEET_KEY_ASSIGNMENT_ENTRY_CHUNK_BYTES: entry->chunk_bytes = fleet_cbor_u32(in, CHUNK_BYTES_MAX); break;
        case FLEET_KEY_ASSIGNMENT_ENTRY_CODEC: entry->codec = (uint8_t)fleet_cbor_u32(in, UNKNOWN); break;
        case FLEET_KEY_ASSIGNMENT_ENTRY_BASE_DIGEST:
            entry->has_base = true;
            copy_fixed(in, entry->base, FLEET_DIGEST_BYTES);
            break;
        case FLEET_KEY_ASSIGNMENT_ENTRY_CONTENT_KEY:
            entry->encrypted = true;
            copy_fixed(in, entry->content_key, FLEET_WRAPPED_KEY_BYTES);
            break;
        case FLEET_KEY_ASSIGNMENT_ENTRY_LATENCY_BUDGET_US: entry->latency_budget_us = fleet_cbor_u32(in, UINT32_MAX); break;
        default: fleet_cbor_skip(in); break;
    }
}

/* Members that every entry must have, as bits by key. */
#define REQUIRED_MEMBERS 0x1E7FU

static uint8_t read_entry(const fleet_agent_t *agent, fleet_cbor_t *in, fleet_entry_t *entry, uint32_t *order) {
    fleet_cbor_map_t map = fleet_cbor_map(in);
    uint8_t component = UNKNOWN;
    uint32_t seen = 0;
    memset(entry, 0, sizeof *entry);
    while (fleet_cbor_next(in, &map)) {
        seen |= map.key < 32 ? UINT32_C(1) << map.key : 0U;
        read_member(agent, in, map.key, entry, &component, order);
    }
    entry->present = true;
    in->bad |= (seen & REQUIRED_MEMBERS) != REQUIRED_MEMBERS || !entry_consistent(entry);
    return component;
}

static fleet_reason_t read_entries(const fleet_agent_t *agent, fleet_cbor_t *in, fleet_assignment_t *assignment) {
    const uint64_t count = fleet_cbor_array(in);
    uint32_t order = 0;
    fleet_reason_t reason = FLEET_REASON_NONE;
    in->bad |= count > ENTRIES_MAX;
    for (uint64_t i = 0; i < count && !in->bad; i++) {
        fleet_entry_t entry;
        const uint8_t component = read_entry(agent, in, &entry, &order);
        if (component == UNKNOWN) {
            reason = FLEET_REASON_UNKNOWN_COMPONENT;
        } else if (entry.codec > FLEET_CODEC_LAST_) {
            reason = FLEET_REASON_CODEC_UNKNOWN;
        } else {
            assignment->entries[component] = entry;
        }
    }
    return reason;
}

static void read_nonce(fleet_cbor_t *in, fleet_assignment_t *assignment) {
    assignment->has_nonce = !fleet_cbor_null(in);
    if (assignment->has_nonce) {
        copy_fixed(in, assignment->nonce, sizeof assignment->nonce);
    }
}

/* The members in order; unknown ones are skipped. `other_device` leaves the rest unread. */
static fleet_reason_t read_content(const fleet_agent_t *agent, const sign1_t *message, fleet_assignment_t *assignment) {
    fleet_cbor_t in = fleet_cbor_reader(message->content, message->content_bytes);
    fleet_cbor_map_t map = fleet_cbor_map(&in);
    fleet_reason_t reason = FLEET_REASON_NONE;
    bool other_device = false;
    uint32_t seen = 0;
    while (fleet_cbor_next(&in, &map)) {
        uint32_t bytes;
        const char *text;
        seen |= map.key < 32 ? UINT32_C(1) << map.key : 0U;
        switch (map.key) {
            case FLEET_KEY_ASSIGNMENT_PROTOCOL: in.bad |= fleet_cbor_uint(&in) != FLEET_PROTOCOL_VERSION; break;
            case FLEET_KEY_ASSIGNMENT_DEVICE:
                text = fleet_cbor_text(&in, &bytes);
                other_device = text == NULL || bytes != strlen(agent->config.device) || memcmp(text, agent->config.device, bytes) != 0;
                break;
            case FLEET_KEY_ASSIGNMENT_DIRECTOR_EPOCH: assignment->epoch = fleet_cbor_uint(&in); break;
            case FLEET_KEY_ASSIGNMENT_SEQUENCE: assignment->sequence = fleet_cbor_uint(&in); break;
            case FLEET_KEY_ASSIGNMENT_NONCE: read_nonce(&in, assignment); break;
            case FLEET_KEY_ASSIGNMENT_ENTRIES: reason = read_entries(agent, &in, assignment); break;
            default: fleet_cbor_skip(&in); break;
        }
    }
    if (!fleet_cbor_done(&in) || (seen & 0x3FU) != 0x3FU || assignment->sequence > UINT_MAX_WIRE) {
        return FLEET_REASON_ASSIGNMENT_MALFORMED;
    }
    return other_device ? FLEET_REASON_ASSIGNMENT_OTHER_DEVICE : reason;
}

static bool nonce_known(const fleet_agent_t *agent, const fleet_assignment_t *assignment) {
    return !assignment->has_nonce || memcmp(assignment->nonce, agent->device.nonce, sizeof assignment->nonce) == 0 ||
           memcmp(assignment->nonce, agent->device.nonce_before, sizeof assignment->nonce) == 0;
}

/* Whether the pair may be followed: higher, or the very same message again. */
static bool sequence_rises(const fleet_agent_t *agent, const fleet_assignment_t *assignment) {
    const fleet_device_record_t *device = &agent->device;
    if (assignment->epoch != device->epoch) {
        return assignment->epoch > device->epoch;
    }
    return assignment->sequence > device->sequence ||
           (assignment->sequence == device->sequence && memcmp(assignment->id, device->assignment, FLEET_ID_BYTES) == 0);
}

fleet_reason_t fleet_assignment_read(const fleet_agent_t *agent, const uint8_t *data, uint32_t bytes, uint8_t *scratch,
                                     fleet_assignment_t *assignment) {
    sign1_t message;
    uint8_t digest[FLEET_DIGEST_BYTES];
    memset(assignment, 0, sizeof *assignment);
    if (!open_sign1(data, bytes, &message)) {
        return FLEET_REASON_ASSIGNMENT_MALFORMED;
    }
    if (!signature_valid(agent, &message, scratch)) {
        return FLEET_REASON_ASSIGNMENT_SIGNATURE;
    }
    fleet_sha256(agent->config.crypto, data, bytes, digest);
    memcpy(assignment->id, digest, FLEET_ID_BYTES);
    const fleet_reason_t reason = read_content(agent, &message, assignment);
    if (reason == FLEET_REASON_ASSIGNMENT_MALFORMED || reason == FLEET_REASON_ASSIGNMENT_OTHER_DEVICE) {
        return reason;
    }
    if (assignment->epoch != agent->root.director_epoch || !sequence_rises(agent, assignment)) {
        return FLEET_REASON_ASSIGNMENT_OLD_SEQUENCE;
    }
    return nonce_known(agent, assignment) ? reason : FLEET_REASON_ASSIGNMENT_STALE_NONCE;
}
