/*
 * Every status of the runtime and the agent, written once: the enum and its strings come from this list.
 * 0 is success, errors are negative, so `if (status < 0)` and `if (status != FLEET_OK)` mean the same.
 * Runtime codes lie above -100, agent codes at -100 and below. Numbers are stable: they travel in logs and telemetry.
 */
#ifndef FLEET_STATUS_H
#define FLEET_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

/* X(name, value, what happened and what to do next) */
#define FLEET_STATUS_LIST(X)                                                                      \
    X(FLEET_OK, 0, "ok")                                                                          \
    X(FLEET_ERR_ARGUMENT, -1, "an argument is null or out of range")                              \
    X(FLEET_ERR_PLATFORM, -2, "this core is not little-endian, or its float arithmetic is not IEEE 754: the runtime cannot run the image")   \
    X(FLEET_ERR_ALIGNMENT, -3, "image or arena is not aligned to 16 bytes: align the buffer")     \
    X(FLEET_ERR_TRUNCATED, -4, "the image is shorter than it says: transfer it again")            \
    X(FLEET_ERR_MAGIC, -5, "not a model image: the magic number is missing")                      \
    X(FLEET_ERR_VERSION, -6, "image format version unknown: compile for this agent's version")    \
    X(FLEET_ERR_ABI, -7, "runtime ABI differs: compile for this agent's ABI")                     \
    X(FLEET_ERR_KERNEL_SET, -8, "kernel set unknown: compile for this agent's device class")      \
    X(FLEET_ERR_LAYOUT, -9, "image structure is inconsistent: compile it again")                  \
    X(FLEET_ERR_OPERATOR, -10, "an operator is unknown to this runtime: update the firmware") \
    X(FLEET_ERR_PACKING, -11, "a weight packing is unknown to this runtime: update the firmware") \
    X(FLEET_ERR_CRC, -12, "image CRC differs: the bytes are damaged, transfer them again")        \
    X(FLEET_ERR_ARENA, -13, "the arena is smaller than the image needs: see fleet_model_info")    \
    X(FLEET_ERR_GOLDEN, -14, "golden vectors differ: this runtime does not compute as compiled")  \
    X(FLEET_ERR_SIZE, -15, "a buffer is smaller than the value it must hold")                     \
    X(FLEET_ERR_STATE, -16, "the model keeps state: attach a buffer of state_bytes, see fleet_model_info") \
    X(FLEET_ERR_SINGLE_SLOT, -100, "the flash cannot hold two slots a component: updates need both, give it more flash or a smaller slot") \
    X(FLEET_ERR_JOURNAL, -101, "the journal was written by another agent version: nothing was changed, use that version") \
    X(FLEET_ERR_ROOT, -102, "the provisioned root is not valid: provision the device again")      \
    X(FLEET_ERR_NO_MODEL, -103, "no runnable image in any slot: fleet_agent_info says why")        \
    X(FLEET_ERR_LABEL, -104, "the inference id is unknown, labelled already or too old")          \
    X(FLEET_ERR_CBOR, -105, "a message is not deterministic CBOR of the expected shape: refuse it") \
    X(FLEET_ERR_FULL, -106, "a buffer is full: see fleet_config.h")                               \
    X(FLEET_ERR_FLASH, -107, "flash could not be read, erased or programmed")                     \
    X(FLEET_ERR_OVERRUN, -108, "a kernel wrote behind its image's arena: the answer is void, look at the kernel table")       \
    X(FLEET_ERR_MQTT_FULL, -120, "the send buffer is full: send its output, then try again")      \
    X(FLEET_ERR_MQTT_OFFLINE, -121, "not connected to the broker: wait for CONNECTED")            \
    X(FLEET_ERR_MQTT_MALFORMED, -122, "the broker sent a malformed packet: reconnect")            \
    X(FLEET_ERR_MQTT_PROTOCOL, -123, "the broker broke the MQTT 3.1.1 protocol: reconnect")       \
    X(FLEET_ERR_MQTT_REFUSED, -124, "the broker refused the connection: check certificate and id") \
    X(FLEET_ERR_MQTT_TIMEOUT, -125, "the broker did not answer in time: reconnect")               \
    X(FLEET_ERR_NETWORK, -140, "the network connection failed or ended: try again later")         \
    X(FLEET_ERR_TLS, -141, "TLS failed: check CA, host name, certificate and their dates")        \
    X(FLEET_ERR_CRYPTO, -142, "the crypto port failed or has no such key")                        \
    X(FLEET_ERR_STORAGE, -143, "a file or flash could not be read or written: check space and rights") \
    X(FLEET_ERR_PATCH, -160, "the patch is malformed or cut short: fetch it again, then the full image") \
    X(FLEET_ERR_PATCH_BASE, -161, "the patch was made for other images: ask for the full image")  \
    X(FLEET_ERR_ENROLMENT, -144, "the enrolment server refused: check claim certificate and quota")

#define FLEET_STATUS_ENUM(name, value, text) name = (value),
/** Result of every call that can fail. */
typedef enum { FLEET_STATUS_LIST(FLEET_STATUS_ENUM) } fleet_status_t;
#undef FLEET_STATUS_ENUM

/**
 * One line for a log: what happened and what to do next.
 * @param[in] status any value, unknown ones included
 * @return static text, never null
 */
const char *fleet_status_text(fleet_status_t status);

#ifdef __cplusplus
}
#endif

#endif
