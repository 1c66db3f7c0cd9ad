#include "roots.h"

#include <string.h>

#include "fields.h"

enum { SIGNATURES_MAX = 4, MEMBERS = 0x7F };

static const uint8_t ENVELOPE[] = {0xd8, 0x62, 0x84, 0x40, 0xa0};
static const uint8_t SIGNATURE_HEAD[] = {0x83};
static const uint8_t SIGNATURE_MIDDLE[] = {0xa0};

/* A root message taken apart; pointers reach into it. */
typedef struct {
    fleet_signed_t payload;
    fleet_signature_t signatures[SIGNATURES_MAX];
    uint32_t count;
} envelope_t;

const fleet_key_t *fleet_key_find(const fleet_key_set_t *set, const uint8_t *kid) {
    for (uint32_t i = 0; i < set->count; i++) {
        if (memcmp(set->keys[i].kid, kid, FLEET_KID_BYTES) == 0) {
            return &set->keys[i];
        }
    }
    return NULL;
}

/* Bytewise order; the shorter key first when one begins the other. The rest of a key's bytes is zero. */
static bool ascends(const fleet_key_t *before, const fleet_key_t *after) {
    const int order = memcmp(before->bytes, after->bytes, sizeof after->bytes);
    return order < 0 || (order == 0 && before->count < after->count);
}

static void read_key(const fleet_crypto_t *crypto, fleet_cbor_t *in, fleet_key_t *key) {
    uint32_t bytes;
    const uint8_t *data = fleet_cbor_bytes(in, &bytes);
    if (data == NULL || !fleet_key_is_strict(data, bytes)) {
        fleet_cbor_require(in, false);
        return;
    }
    uint8_t digest[FLEET_DIGEST_BYTES];
    fleet_sha256(crypto, data, bytes, digest);
    memcpy(key->bytes, data, bytes);
    memcpy(key->kid, digest, FLEET_KID_BYTES);
    key->count = (uint8_t)bytes;
}

static void read_keys(const fleet_crypto_t *crypto, fleet_cbor_t *in, fleet_key_set_t *set) {
    const uint32_t count = fleet_cbor_array(in);
    if (count == 0 || count > FLEET_ROOT_KEYS_MAX) {
        fleet_cbor_require(in, false);
        return;
    }
    set->count = (uint8_t)count;
    for (uint32_t i = 0; i < count && !in->bad; i++) {
        read_key(crypto, in, &set->keys[i]);
        fleet_cbor_require(in, i == 0 || ascends(&set->keys[i - 1U], &set->keys[i]));
    }
}

static bool disjoint(const fleet_key_set_t *a, const fleet_key_set_t *b) {
    for (uint32_t i = 0; i < a->count; i++) {
        if (fleet_key_find(b, a->keys[i].kid) != NULL) {
            return false;
        }
    }
    return true;
}

static bool read_payload(const fleet_crypto_t *crypto, const fleet_signed_t *payload, fleet_root_t *root) {
    static const fleet_field_t fields[] = {
        FLEET_FIELD_VALUE(FLEET_KEY_ROOT_PROTOCOL, FLEET_PROTOCOL_VERSION),
        FLEET_FIELD(FLEET_KEY_ROOT_NUMBER, fleet_root_t, number),
        FLEET_FIELD(FLEET_KEY_ROOT_THRESHOLD, fleet_root_t, threshold),
        FLEET_FIELD(FLEET_KEY_ROOT_DIRECTOR_EPOCH, fleet_root_t, director_epoch),
    };
    fleet_cbor_t in = fleet_cbor_reader(payload->data, payload->bytes);
    uint32_t content_bytes;
    const uint8_t *content = fleet_cbor_bytes(&in, &content_bytes);
    if (content == NULL) {
        return false;
    }
    in = fleet_cbor_reader(content, content_bytes);
    fleet_cbor_map_t map = fleet_cbor_map(&in);
    memset(root, 0, sizeof *root);
    while (fleet_cbor_next(&in, &map)) {
        switch (map.key) {
            case FLEET_KEY_ROOT_ROOT_KEYS: read_keys(crypto, &in, &root->root_keys); break;
            case FLEET_KEY_ROOT_RELEASE_KEYS: read_keys(crypto, &in, &root->release_keys); break;
            case FLEET_KEY_ROOT_DIRECTOR_KEYS: read_keys(crypto, &in, &root->director_keys); break;
            default: fleet_cbor_require(&in, fleet_fields_take(&in, map.key, root, FLEET_FIELDS(fields))); break;
        }
    }
    return fleet_cbor_done(&in) && map.seen == MEMBERS && root->number > 0 && root->threshold > 0 &&
           root->threshold <= root->root_keys.count && disjoint(&root->root_keys, &root->release_keys) &&
           disjoint(&root->root_keys, &root->director_keys) && disjoint(&root->release_keys, &root->director_keys);
}

static bool open_envelope(const uint8_t *data, uint32_t bytes, envelope_t *envelope) {
    fleet_cbor_t in = fleet_cbor_reader(data, bytes);
    uint32_t content;
    fleet_cbor_expect(&in, ENVELOPE, sizeof ENVELOPE);
    envelope->payload.data = in.at;
    (void)fleet_cbor_bytes(&in, &content);
    envelope->payload.bytes = (uint32_t)(in.at - envelope->payload.data);
    envelope->count = fleet_cbor_array(&in);
    if (envelope->count == 0 || envelope->count > SIGNATURES_MAX) {
        return false;
    }
    for (uint32_t i = 0; i < envelope->count && !in.bad; i++) {
        fleet_signature_t *signature = &envelope->signatures[i];
        fleet_cbor_expect(&in, SIGNATURE_HEAD, sizeof SIGNATURE_HEAD);
        fleet_signature_read_header(&in, signature);
        fleet_cbor_expect(&in, SIGNATURE_MIDDLE, sizeof SIGNATURE_MIDDLE);
        fleet_signature_read_bytes(&in, signature);
        fleet_cbor_require(&in, i == 0 || in.bad || memcmp(signature->kid, envelope->signatures[i - 1U].kid, FLEET_KID_BYTES) > 0);
    }
    return fleet_cbor_done(&in);
}

/* Every signature must be good and by a known key: there is nothing to skip. */
static bool thresholds_met(const fleet_crypto_t *crypto, const envelope_t *envelope, const fleet_root_t *previous,
                           const fleet_root_t *root, uint8_t *scratch) {
    uint32_t own = 0;
    uint32_t before = 0;
    for (uint32_t i = 0; i < envelope->count; i++) {
        const fleet_signature_t *signature = &envelope->signatures[i];
        const fleet_key_t *by_own = fleet_key_find(&root->root_keys, signature->kid);
        const fleet_key_t *by_before = previous != NULL ? fleet_key_find(&previous->root_keys, signature->kid) : NULL;
        const fleet_key_t *key = by_own != NULL ? by_own : by_before;
        if (!fleet_signature_valid(crypto, key, signature, FLEET_SIGN, envelope->payload, scratch)) {
            return false;
        }
        own += by_own != NULL ? 1U : 0U;
        before += by_before != NULL ? 1U : 0U;
    }
    return own >= root->threshold && (previous == NULL || before >= previous->threshold);
}

static bool follows(const fleet_root_t *previous, const fleet_root_t *root) {
    const bool same_directors = memcmp(&previous->director_keys, &root->director_keys, sizeof root->director_keys) == 0;
    return root->number == previous->number + 1U && root->director_epoch >= previous->director_epoch &&
           (same_directors || root->director_epoch > previous->director_epoch);
}

bool fleet_root_accept(const fleet_crypto_t *crypto, const uint8_t *data, uint32_t bytes, const fleet_root_t *previous,
                       uint8_t *scratch, fleet_root_t *root) {
    envelope_t envelope;
    fleet_root_t read;
    if (bytes > FLEET_ROOT_BYTES_MAX || !open_envelope(data, bytes, &envelope) ||
        !read_payload(crypto, &envelope.payload, &read) ||
        (previous != NULL && !follows(previous, &read)) || !thresholds_met(crypto, &envelope, previous, &read, scratch)) {
        return false;
    }
    *root = read;
    return true;
}
