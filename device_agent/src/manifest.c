#include "manifest.h"

#include <string.h>

#include "cbor.h"
#include "compact.h"
#include "events.h"
#include "fleet_image.h"
#include "ids.h"
#include "roots.h"

enum { DIGEST_HEAD_BYTES = 6, COMPONENT_BYTES_MAX = 16, VERSION_BYTES_MAX = 32 };

/* What stands behind each piece of fixed bytes: so many bytes, or one of these. */
enum { NUMBER = 0, STRING = 100, CHARACTERS, ENTER }; /* ENTER: into a byte string */

#define PIECES(X)                         \
    X(ENVELOPE, FLEET_DIGEST_BYTES)       \
    X(SIGN1, 1) /* algorithm */           \
    X(KID, FLEET_KID_BYTES)               \
    X(SIGNATURE, FLEET_SIGNATURE_BYTES)   \
    X(MANIFEST_KEY, ENTER)                \
    X(MANIFEST, NUMBER) /* release counter */ \
    X(COMMON_KEY, ENTER)                  \
    X(COMPONENTS, STRING)                 \
    X(SHARED_KEY, ENTER)                  \
    X(SHARED, FLEET_ID_BYTES) /* class id */ \
    X(IMAGE_DIGEST, FLEET_DIGEST_BYTES)   \
    X(IMAGE_SIZE, NUMBER)                 \
    X(ABI, NUMBER)                        \
    X(FLOOR, NUMBER)                      \
    X(TAIL, ENTER) /* into the text */    \
    X(TEXT, STRING) /* component again */ \
    X(VERSION, CHARACTERS)

enum {
#define X_(piece, behind) AT_##piece,
    PIECES(X_)
#undef X_
    PIECE_COUNT
};

/* A manifest taken apart. */
typedef struct {
    const uint8_t *at[PIECE_COUNT]; /* what stands behind the piece; the content of a string */
    uint32_t number[PIECE_COUNT];   /* or its length, or what follows an entered string in the envelope */
} parts_t;

/* SUIT class id of a device class name. */
static void class_id_of(const fleet_crypto_t *crypto, const char *device_class, uint8_t class_id[16]) {
    static const uint8_t vendor[] = FLEET_SUIT_VENDOR_ID;
    uint8_t digest[FLEET_DIGEST_BYTES];
    const fleet_piece_t pieces[] = {{vendor, sizeof vendor}, {device_class, strlen(device_class)}};
    fleet_sha256_pieces(crypto, pieces, sizeof pieces / sizeof *pieces, digest);
    digest[6] = (uint8_t)(0x80U | (digest[6] & 0x0FU));
    digest[8] = (uint8_t)(0x80U | (digest[8] & 0x3FU));
    fleet_id_copy(class_id, digest);
}

FLEET_APART static void take(fleet_cbor_t *in, uint8_t behind, const uint8_t **at, uint32_t *number) {
    *at = in->at;
    if (behind == NUMBER) {
        *number = fleet_cbor_u32(in, UINT32_MAX);
    } else if (behind < STRING) {
        (void)fleet_cbor_raw(in, behind);
    } else if (behind == CHARACTERS) {
        (void)fleet_cbor_text(in, number);
    } else {
        const uint8_t *content = fleet_cbor_bytes(in, number);
        if (behind == STRING) {
            *at = content;
        } else if (content != NULL) {
            *number = (uint32_t)(in->end - in->at);
            in->at = content;
        }
    }
}

/* True when every piece is there in order; heads are judged by the caller. */
static bool match_pieces(const uint8_t *data, uint32_t bytes, parts_t *parts) {
    static const struct {
#define X_(piece, behind) uint8_t in_##piece[FLEET_SUIT_##piece##_BYTES];
        PIECES(X_)
#undef X_
    } fixed = {
#define X_(piece, behind) FLEET_SUIT_##piece,
        PIECES(X_)
#undef X_
    };
    static const uint8_t steps[PIECE_COUNT][2] = {
#define X_(piece, behind) {FLEET_SUIT_##piece##_BYTES, behind},
        PIECES(X_)
#undef X_
    };
    const uint8_t *piece = (const uint8_t *)&fixed;
    fleet_cbor_t in = fleet_cbor_reader(data, bytes);
    for (uint32_t i = 0; i < PIECE_COUNT; i++) {
        fleet_cbor_expect(&in, piece, steps[i][0]);
        piece += steps[i][0];
        take(&in, steps[i][1], &parts->at[i], &parts->number[i]);
    }
    return fleet_cbor_done(&in);
}

/* The heads of manifest and text end the envelope; those of common and shared both end four bytes into TAIL. */
static bool match_template(const uint8_t *data, uint32_t bytes, parts_t *parts) {
    enum { SHARED_REST = 4 };
    if (!match_pieces(data, bytes, parts)) {
        return false;
    }
    const uint32_t *number = parts->number;
    const uint32_t behind_shared = (uint32_t)(data + bytes - parts->at[AT_TAIL]) + FLEET_SUIT_TAIL_BYTES - SHARED_REST;
    return fleet_algorithm_is_known(*parts->at[AT_SIGN1]) && number[AT_MANIFEST_KEY] == 0 && number[AT_TAIL] == 0 && number[AT_COMMON_KEY] == behind_shared &&
           number[AT_SHARED_KEY] == behind_shared && number[AT_COMPONENTS] - 1U < COMPONENT_BYTES_MAX &&
           number[AT_TEXT] == number[AT_COMPONENTS] &&
           memcmp(parts->at[AT_TEXT], parts->at[AT_COMPONENTS], number[AT_TEXT]) == 0 &&
           number[AT_VERSION] - 1U < VERSION_BYTES_MAX && number[AT_MANIFEST] > 0 && number[AT_IMAGE_SIZE] > 0 &&
           number[AT_FLOOR] <= number[AT_MANIFEST];
}

static bool digest_is(const fleet_crypto_t *crypto, const uint8_t *data, uint32_t bytes, const uint8_t *expected) {
    uint8_t digest[FLEET_DIGEST_BYTES];
    fleet_sha256(crypto, data, bytes, digest);
    return fleet_digest_same(digest, expected);
}

static bool names_component(const parts_t *parts, uint8_t component) {
    char name[FLEET_COMPONENT_NAME_BYTES];
    fleet_component_name(component, name);
    return fleet_text_is(parts->at[AT_COMPONENTS], parts->number[AT_COMPONENTS], name);
}

static fleet_reason_t check_fit(const fleet_agent_t *agent, const fleet_component_t *component, const parts_t *parts) {
    uint8_t class_id[FLEET_ID_BYTES];
    class_id_of(agent->config.crypto, agent->config.device_class, class_id);
    if (!names_component(parts, fleet_component_index(agent, component))) {
        return FLEET_REASON_UNKNOWN_COMPONENT;
    }
    if (!fleet_id_same(parts->at[AT_SHARED], class_id)) {
        return FLEET_REASON_OTHER_CLASS;
    }
    if (!fleet_is_firmware(agent, component) && parts->number[AT_ABI] != FLEET_IMAGE_ABI) { /* a firmware brings its own */
        return FLEET_REASON_ABI_MISMATCH;
    }
    if (parts->number[AT_MANIFEST] < component->record.floor) {
        return FLEET_REASON_BELOW_FLOOR;
    }
    return parts->number[AT_IMAGE_SIZE] <= fleet_component_room(agent, component) ? FLEET_REASON_NONE : FLEET_REASON_IMAGE_TOO_LARGE;
}

/* What is signed stands in the envelope as it is: the digest, framed. */
static bool signature_valid(const fleet_crypto_t *crypto, const parts_t *parts, const fleet_key_t *key) {
    uint8_t scratch[FLEET_SIGNED_HEAD_BYTES + DIGEST_HEAD_BYTES + FLEET_DIGEST_BYTES];
    const fleet_signed_t payload = {parts->at[AT_ENVELOPE] - DIGEST_HEAD_BYTES, DIGEST_HEAD_BYTES + FLEET_DIGEST_BYTES};
    const fleet_signature_t signature = {parts->at[AT_SIGNATURE], parts->at[AT_KID], *parts->at[AT_SIGN1]};
    return fleet_signature_valid(crypto, key, &signature, FLEET_SIGN1, payload, scratch);
}

static fleet_reason_t check_signed(const fleet_agent_t *agent, const parts_t *parts, const uint8_t *end) {
    const fleet_crypto_t *crypto = agent->config.crypto;
    const uint8_t *manifest = parts->at[AT_MANIFEST_KEY];
    if (!digest_is(crypto, manifest, (uint32_t)(end - manifest), parts->at[AT_ENVELOPE])) {
        return FLEET_REASON_MANIFEST_MALFORMED;
    }
    const fleet_key_t *key = fleet_key_find(&agent->root.keys[FLEET_ROLE_RELEASE], parts->at[AT_KID]);
    if (key == NULL) {
        return FLEET_REASON_KEY_REVOKED;
    }
    return signature_valid(crypto, parts, key) ? FLEET_REASON_NONE : FLEET_REASON_MANIFEST_SIGNATURE;
}

fleet_reason_t fleet_manifest_read(const fleet_agent_t *agent, const fleet_component_t *component, const uint8_t *data, uint32_t bytes,
                                   fleet_release_t *release) {
    parts_t parts;
    if (!digest_is(agent->config.crypto, data, bytes, component->entry.manifest)) {
        return FLEET_REASON_MANIFEST_DIGEST;
    }
    if (!match_template(data, bytes, &parts)) {
        return FLEET_REASON_MANIFEST_MALFORMED;
    }
    fleet_reason_t reason = check_signed(agent, &parts, data + bytes);
    reason = reason == FLEET_REASON_NONE ? check_fit(agent, component, &parts) : reason;
    if (reason == FLEET_REASON_NONE) {
        release->release_counter = parts.number[AT_MANIFEST];
        release->security_floor = parts.number[AT_FLOOR];
        release->image_bytes = parts.number[AT_IMAGE_SIZE];
        fleet_digest_copy(release->digest, parts.at[AT_IMAGE_DIGEST]);
        memcpy(release->kid, parts.at[AT_KID], FLEET_KID_BYTES);
    }
    return reason;
}
