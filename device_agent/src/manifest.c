#include "manifest.h"

#include <string.h>

#include "cbor.h"
#include "fleet_image.h"
#include "roots.h"

enum { ENVELOPE_BYTES_MAX = 512, COMPONENT_BYTES_MAX = 16, VERSION_BYTES_MAX = 32 };

#define EXPECT(in, piece)                                       \
    do {                                                        \
        static const uint8_t fixed[] = piece;                   \
        fleet_cbor_expect(in, fixed, (uint32_t)sizeof fixed);   \
    } while (0)

#define PUT(out, piece)                                         \
    do {                                                        \
        static const uint8_t fixed[] = piece;                   \
        fleet_cbor_put_raw(out, fixed, (uint32_t)sizeof fixed); \
    } while (0)

/* A manifest taken apart; pointers reach into it. */
typedef struct {
    const uint8_t *digest; /* of the manifest inside */
    fleet_signature_t signature;
    const uint8_t *manifest; /* with its byte string head */
    uint32_t manifest_bytes;
    const uint8_t *component;
    uint32_t component_bytes;
    const uint8_t *class_id;
    const uint8_t *image_digest;
    fleet_release_t release;
} parts_t;

void fleet_manifest_class_id(const fleet_crypto_t *crypto, const char *device_class, uint8_t class_id[16]) {
    static const uint8_t vendor[] = FLEET_SUIT_VENDOR_ID;
    uint8_t digest[FLEET_DIGEST_BYTES];
    fleet_sha256_t state;
    crypto->sha256_init(crypto->ctx, &state);
    crypto->sha256_update(crypto->ctx, &state, vendor, sizeof vendor);
    crypto->sha256_update(crypto->ctx, &state, device_class, strlen(device_class));
    crypto->sha256_final(crypto->ctx, &state, digest);
    digest[6] = (uint8_t)(0x80U | (digest[6] & 0x0FU));
    digest[8] = (uint8_t)(0x80U | (digest[8] & 0x3FU));
    memcpy(class_id, digest, 16);
}

/* A byte string that must run exactly to `end`, entered: its content is what `in` reads next. */
static void enter(fleet_cbor_t *in, const uint8_t *end) {
    uint32_t bytes;
    const uint8_t *content = fleet_cbor_bytes(in, &bytes);
    if (content == NULL || content + bytes != end) {
        in->bad = true;
        return;
    }
    in->at = content;
}

static void match_shared(fleet_cbor_t *in, parts_t *parts) {
    EXPECT(in, FLEET_SUIT_SHARED);
    parts->class_id = fleet_cbor_raw(in, FLEET_ID_BYTES);
    EXPECT(in, FLEET_SUIT_IMAGE_DIGEST);
    parts->image_digest = fleet_cbor_raw(in, FLEET_DIGEST_BYTES);
    EXPECT(in, FLEET_SUIT_IMAGE_SIZE);
    parts->release.image_bytes = fleet_cbor_u32(in, UINT32_MAX);
    EXPECT(in, FLEET_SUIT_ABI);
    parts->release.abi = fleet_cbor_u32(in, UINT32_MAX);
    EXPECT(in, FLEET_SUIT_FLOOR);
    parts->release.security_floor = fleet_cbor_u32(in, UINT32_MAX);
}

/* Heads of common and shared say where they end; both must end four bytes into TAIL. */
static void match_common(fleet_cbor_t *in, parts_t *parts) {
    enum { SHARED_REST = 4 };
    uint32_t common_bytes;
    uint32_t shared_bytes;
    EXPECT(in, FLEET_SUIT_COMMON_KEY);
    const uint8_t *common = fleet_cbor_bytes(in, &common_bytes);
    if (common == NULL) {
        return;
    }
    in->at = common;
    EXPECT(in, FLEET_SUIT_COMPONENTS);
    parts->component = fleet_cbor_bytes(in, &parts->component_bytes);
    EXPECT(in, FLEET_SUIT_SHARED_KEY);
    const uint8_t *shared = fleet_cbor_bytes(in, &shared_bytes);
    if (shared == NULL) {
        return;
    }
    in->at = shared;
    match_shared(in, parts);
    in->bad |= in->at + SHARED_REST != common + common_bytes || common + common_bytes != shared + shared_bytes;
}

static void match_text(fleet_cbor_t *in, const parts_t *parts) {
    uint32_t bytes;
    enter(in, in->end);
    EXPECT(in, FLEET_SUIT_TEXT);
    const uint8_t *component = fleet_cbor_bytes(in, &bytes);
    in->bad |= component == NULL || parts->component == NULL || bytes != parts->component_bytes ||
               memcmp(component, parts->component, bytes) != 0;
    EXPECT(in, FLEET_SUIT_VERSION);
    (void)fleet_cbor_text(in, &bytes);
    in->bad |= bytes == 0 || bytes > VERSION_BYTES_MAX;
}

static bool match_template(const uint8_t *data, uint32_t bytes, parts_t *parts) {
    fleet_cbor_t in = fleet_cbor_reader(data, bytes);
    memset(parts, 0, sizeof *parts);
    EXPECT(&in, FLEET_SUIT_ENVELOPE);
    parts->digest = fleet_cbor_raw(&in, FLEET_DIGEST_BYTES);
    EXPECT(&in, FLEET_SUIT_SIGN1);
    fleet_signature_read_header(&in, &parts->signature);
    EXPECT(&in, FLEET_SUIT_SIGNATURE);
    parts->signature.bytes = fleet_cbor_raw(&in, FLEET_SIGNATURE_BYTES);
    EXPECT(&in, FLEET_SUIT_MANIFEST_KEY);
    parts->manifest = in.at;
    parts->manifest_bytes = (uint32_t)(in.end - in.at);
    enter(&in, in.end);
    EXPECT(&in, FLEET_SUIT_MANIFEST);
    parts->release.release_counter = fleet_cbor_u32(&in, UINT32_MAX);
    match_common(&in, parts);
    EXPECT(&in, FLEET_SUIT_TAIL);
    match_text(&in, parts);
    const fleet_release_t *release = &parts->release;
    return fleet_cbor_done(&in) && parts->component_bytes > 0 && parts->component_bytes <= COMPONENT_BYTES_MAX &&
           release->release_counter > 0 && release->image_bytes > 0 && release->security_floor <= release->release_counter;
}

static bool digest_is(const fleet_crypto_t *crypto, const uint8_t *data, uint32_t bytes, const uint8_t *expected) {
    uint8_t digest[FLEET_DIGEST_BYTES];
    fleet_sha256(crypto, data, bytes, digest);
    return memcmp(digest, expected, sizeof digest) == 0;
}

static bool signature_valid(const fleet_crypto_t *crypto, const parts_t *parts, const fleet_key_t *key, uint8_t *scratch) {
    fleet_cbor_out_t out = fleet_cbor_writer(scratch, FLEET_MESSAGE_BYTES);
    PUT(&out, FLEET_SUIT_SIG_STRUCTURE);
    fleet_signature_put_header(&out, &parts->signature);
    PUT(&out, FLEET_SUIT_SIG_PAYLOAD);
    fleet_cbor_put_raw(&out, parts->digest, FLEET_DIGEST_BYTES);
    return fleet_signature_valid(crypto, key, &parts->signature, scratch, out.used);
}

static bool names_component(const parts_t *parts, uint8_t component) {
    const uint8_t name[7] = {'m', 'o', 'd', 'e', 'l', '/', (uint8_t)('0' + component)};
    return parts->component_bytes == sizeof name && memcmp(parts->component, name, sizeof name) == 0;
}

static fleet_reason_t check_fit(const fleet_agent_t *agent, uint8_t component, const parts_t *parts) {
    if (!names_component(parts, component)) {
        return FLEET_REASON_UNKNOWN_COMPONENT;
    }
    if (memcmp(parts->class_id, agent->class_id, FLEET_ID_BYTES) != 0) {
        return FLEET_REASON_OTHER_CLASS;
    }
    if (parts->release.abi != FLEET_IMAGE_ABI) {
        return FLEET_REASON_ABI_MISMATCH;
    }
    if (parts->release.release_counter < agent->components[component].record.floor) {
        return FLEET_REASON_BELOW_FLOOR;
    }
    return parts->release.image_bytes <= agent->slot_bytes ? FLEET_REASON_NONE : FLEET_REASON_IMAGE_TOO_LARGE;
}

fleet_reason_t fleet_manifest_read(const fleet_agent_t *agent, uint8_t component, const uint8_t digest[32], const uint8_t *data,
                                   uint32_t bytes, uint8_t *scratch, fleet_release_t *release) {
    const fleet_crypto_t *crypto = agent->config.crypto;
    parts_t parts;
    if (bytes > ENVELOPE_BYTES_MAX) {
        return FLEET_REASON_MANIFEST_MALFORMED;
    }
    if (!digest_is(crypto, data, bytes, digest)) {
        return FLEET_REASON_MANIFEST_DIGEST;
    }
    if (!match_template(data, bytes, &parts) || !digest_is(crypto, parts.manifest, parts.manifest_bytes, parts.digest)) {
        return FLEET_REASON_MANIFEST_MALFORMED;
    }
    const fleet_key_t *key = fleet_key_find(&agent->root.release_keys, parts.signature.kid);
    if (key == NULL) {
        return FLEET_REASON_KEY_REVOKED;
    }
    if (!signature_valid(crypto, &parts, key, scratch)) {
        return FLEET_REASON_MANIFEST_SIGNATURE;
    }
    const fleet_reason_t reason = check_fit(agent, component, &parts);
    if (reason == FLEET_REASON_NONE) {
        *release = parts.release;
        memcpy(release->digest, parts.image_digest, FLEET_DIGEST_BYTES);
        memcpy(release->kid, parts.signature.kid, FLEET_KID_BYTES);
    }
    return reason;
}
