#include "roots.h"

#include <string.h>

#include "fields.h"

enum { SIGNATURES_MAX = 4, MEMBERS = 0x7F };

static const uint8_t ENVELOPE[] = {0xd8, 0x62, 0x84, 0x40, 0xa0};
static const uint8_t SIGNATURE_HEAD[] = {0x83};
static const uint8_t SIGNATURE_MIDDLE[] = {0xa0};

const fleet_key_t *fleet_key_find(const fleet_key_set_t *set, const uint8_t *kid) {
    for (uint32_t i = 0; i < set->count; i++) {
        if (memcmp(set->keys[i].kid, kid, FLEET_KID_BYTES) == 0) {
            return &set->keys[i];
        }
    }
    return NULL;
}

/* Bytewise order. The rest of a key's bytes is zero, and no key is another one with a zero behind it but by intent. */
static bool ascends(const fleet_key_t *before, const fleet_key_t *after) {
    return memcmp(before->bytes, after->bytes, sizeof after->bytes) < 0;
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

/* Whether one of the roles before `role` has this key. */
static bool is_taken(const fleet_root_t *root, uint32_t role, const uint8_t *kid) {
    while (role > 0 && fleet_key_find(&root->keys[role - 1U], kid) == NULL) {
        role--;
    }
    return role > 0;
}

static bool read_keys(const fleet_crypto_t *crypto, fleet_cbor_t *in, fleet_root_t *root, uint32_t role) {
    fleet_key_set_t *set = &root->keys[role];
    const uint32_t count = fleet_cbor_array(in);
    if (count == 0 || count > FLEET_ROOT_KEYS_MAX) {
        return false;
    }
    set->count = (uint8_t)count;
    for (uint32_t i = 0; i < count; i++) {
        read_key(crypto, in, &set->keys[i]);
        fleet_cbor_require(in, !is_taken(root, role, set->keys[i].kid) && (i == 0 || ascends(&set->keys[i - 1U], &set->keys[i])));
    }
    return fleet_cbor_done(in);
}

/* What a root says, its keys as they lie. */
typedef struct {
    uint64_t director_epoch;
    uint32_t number;
    uint32_t threshold;
    fleet_cbor_t keys[FLEET_ROLES];
} content_t;

static bool read_content(fleet_cbor_t *in, content_t *content) {
    static const fleet_field_t fields[] = {
        FLEET_FIELD_VALUE(FLEET_KEY_ROOT_PROTOCOL, FLEET_PROTOCOL_VERSION),
        FLEET_FIELD(FLEET_KEY_ROOT_NUMBER, content_t, number),
        FLEET_FIELD(FLEET_KEY_ROOT_THRESHOLD, content_t, threshold),
        FLEET_FIELD_AS(FLEET_KEY_ROOT_ROOT_KEYS, FLEET_FIELD_ITEM, content_t, keys[FLEET_ROLE_ROOT]),
        FLEET_FIELD_AS(FLEET_KEY_ROOT_RELEASE_KEYS, FLEET_FIELD_ITEM, content_t, keys[FLEET_ROLE_RELEASE]),
        FLEET_FIELD_AS(FLEET_KEY_ROOT_DIRECTOR_KEYS, FLEET_FIELD_ITEM, content_t, keys[FLEET_ROLE_DIRECTOR]),
        FLEET_FIELD(FLEET_KEY_ROOT_DIRECTOR_EPOCH, content_t, director_epoch),
    };
    uint32_t bytes;
    const uint8_t *data = fleet_cbor_bytes(in, &bytes);
    if (data == NULL) {
        return false;
    }
    fleet_cbor_t inside = fleet_cbor_reader(data, bytes);
    return fleet_fields_read(&inside, content, FLEET_FIELDS(fields)) == MEMBERS && fleet_cbor_done(&inside);
}

static bool read_payload(const fleet_crypto_t *crypto, fleet_cbor_t *in, fleet_root_t *root) {
    content_t content;
    if (!read_content(in, &content)) {
        return false;
    }
    memset(root, 0, sizeof *root);
    root->number = content.number;
    root->threshold = content.threshold;
    root->director_epoch = content.director_epoch;
    for (uint32_t role = 0; role < FLEET_ROLES; role++) {
        if (!read_keys(crypto, &content.keys[role], root, role)) {
            return false;
        }
    }
    return root->number > 0 && root->threshold > 0 && root->threshold <= root->keys[FLEET_ROLE_ROOT].count;
}

static bool follows(const fleet_root_t *previous, const fleet_root_t *root) {
    const bool same_directors = memcmp(&previous->keys[FLEET_ROLE_DIRECTOR], &root->keys[FLEET_ROLE_DIRECTOR], sizeof(fleet_key_set_t)) == 0;
    return root->number == previous->number + 1U && root->director_epoch >= previous->director_epoch &&
           (same_directors || root->director_epoch > previous->director_epoch);
}

static void read_signature(fleet_cbor_t *in, fleet_signature_t *signature) {
    fleet_cbor_expect(in, SIGNATURE_HEAD, sizeof SIGNATURE_HEAD);
    fleet_signature_read_header(in, signature);
    fleet_cbor_expect(in, SIGNATURE_MIDDLE, sizeof SIGNATURE_MIDDLE);
    fleet_signature_read_bytes(in, signature);
}

/* Every signature must be good and by a known key, their ids ascend: there is nothing to skip. */
static bool thresholds_met(const fleet_crypto_t *crypto, fleet_cbor_t *in, fleet_signed_t payload, const fleet_root_t *previous,
                           const fleet_root_t *root, uint8_t *scratch) {
    uint32_t own = 0;
    uint32_t before = 0;
    const uint8_t *last_kid = NULL;
    const uint32_t count = fleet_cbor_array(in);
    if (count > SIGNATURES_MAX) {
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        fleet_signature_t signature;
        read_signature(in, &signature);
        if (in->bad || (last_kid != NULL && memcmp(signature.kid, last_kid, FLEET_KID_BYTES) <= 0)) {
            return false;
        }
        const fleet_key_t *by_own = fleet_key_find(root->keys, signature.kid);
        const fleet_key_t *by_before = previous != NULL ? fleet_key_find(previous->keys, signature.kid) : NULL;
        if (!fleet_signature_valid(crypto, by_own != NULL ? by_own : by_before, &signature, FLEET_SIGN, payload, scratch)) {
            return false;
        }
        own += by_own != NULL ? 1U : 0U;
        before += by_before != NULL ? 1U : 0U;
        last_kid = signature.kid;
    }
    return fleet_cbor_done(in) && own >= root->threshold && (previous == NULL || before >= previous->threshold);
}

bool fleet_root_accept(const fleet_crypto_t *crypto, const uint8_t *data, uint32_t bytes, const fleet_root_t *previous,
                       uint8_t *scratch, fleet_root_t *root) {
    fleet_cbor_t in = fleet_cbor_reader(data, bytes);
    fleet_cbor_expect(&in, ENVELOPE, sizeof ENVELOPE);
    fleet_signed_t payload = {in.at, 0};
    if (bytes > FLEET_ROOT_BYTES_MAX || !read_payload(crypto, &in, root) || (previous != NULL && !follows(previous, root))) {
        return false;
    }
    payload.bytes = (uint32_t)(in.at - payload.data);
    return thresholds_met(crypto, &in, payload, previous, root, scratch);
}
