/*
 * Every knob of the agent: name, unit, bounds, default, and what it costs. Override by -DNAME=value or by naming a header of
 * yours in FLEET_CONFIG_FILE. The same values must be seen by the library and by everything that includes fleet_agent.h.
 */
#ifndef FLEET_CONFIG_H
#define FLEET_CONFIG_H

#ifdef FLEET_CONFIG_FILE
#include FLEET_CONFIG_FILE
#endif

/** Kernels of operators that keep something between inferences (STATE_READ .. GRU), 0 or 1. Without them images that use
 * them are refused with FLEET_ERR_OPERATOR. 6.6 KB of flash (these figures: Cortex-M4, GCC 12, -O2). */
#ifndef FLEET_WITH_RECURRENT
#define FLEET_WITH_RECURRENT 1
#endif

/** Kernels of int16 tensors, 0 or 1. 14 KB of flash; an image that needs what is left out is refused. */
#ifndef FLEET_WITH_INT16
#define FLEET_WITH_INT16 1
#endif

/** Kernels of int4 weights, 0 or 1. 2.2 KB of flash; without, the same refusal. */
#ifndef FLEET_WITH_INT4
#define FLEET_WITH_INT4 1
#endif

/** Kernels for float32 images and for the float parts of int8 ones, 0 or 1. 15 KB of flash; 0 where images are int8 alone. */
#ifndef FLEET_WITH_FLOAT32
#define FLEET_WITH_FLOAT32 1
#endif

/** Model components this build can run, 1..10: "model/0" .. Each costs two flash slots and about 1.2 KB of RAM. A firmware that brings more reads the
 * journal of the one before where FLEET_JOURNAL_BYTES is enough for both. */
#ifndef FLEET_MODELS_MAX
#define FLEET_MODELS_MAX 1
#endif

/** The component "firmware" under MCUboot, 0 or 1: what fleet_agent_config_t.firmware names. 2.1 KB of flash, 810 B of RAM. */
#ifndef FLEET_WITH_FIRMWARE
#define FLEET_WITH_FIRMWARE 0
#endif

/** Signed commands (reboot, diagnostics), 0 or 1. 0.4 KB of flash; without, the command topic is not subscribed. */
#ifndef FLEET_WITH_COMMANDS
#define FLEET_WITH_COMMANDS 1
#endif

/** Encrypted images, 0 or 1. 0.4 KB of flash, 112 B of RAM; without, assignments with a content key are refused with CONTENT_KEY. */
#ifndef FLEET_WITH_ENCRYPTION
#define FLEET_WITH_ENCRYPTION 1
#endif

/** Candidates beside the active model, 0 or 1. 0.3 KB of flash; without, a candidate that is to shadow is REJECTED(SHADOW_NO_RAM). */
#ifndef FLEET_WITH_SHADOW
#define FLEET_WITH_SHADOW 1
#endif

/** fleet_agent_label, 0 or 1: truths that come after the answer. 0.2 KB of flash and the RAM of FLEET_LABEL_RING; without, nothing is labelled. */
#ifndef FLEET_WITH_LABELS
#define FLEET_WITH_LABELS 1
#endif

/** Largest MQTT packet the agent accepts, bytes: topic, payload and 4. Bounds the chunk size (the default chunk is 1024) and the assignment, where a component
 * may take 270. RAM. */
#ifndef FLEET_RX_BYTES
#define FLEET_RX_BYTES (FLEET_MODELS_MAX + FLEET_WITH_FIRMWARE > 4 ? 2304 : 1536)
#endif

/** Largest payload the agent builds (state, telemetry), bytes. It is built in the send queue: no RAM of its own, but it waits until there is that much room.
 * A component takes up to 113 in `state`; images that do not fit into one report come in the next. More classes, buckets or components want more: the build says so. */
#ifndef FLEET_MESSAGE_BYTES
#define FLEET_MESSAGE_BYTES (368 + 136 * (FLEET_MODELS_MAX + FLEET_WITH_FIRMWARE))
#endif

/** Send queue, bytes: CONNECT, subscriptions and QoS 1 publishes without PUBACK; at least a message and 208. More keeps more on the way at once. RAM. */
#ifndef FLEET_TX_BYTES
#define FLEET_TX_BYTES (FLEET_MESSAGE_BYTES + 208)
#endif

/** Share of the inferences in which a candidate in SHADOW runs beside the active model, percent, 1..100: the time that shadowing may cost. */
#ifndef FLEET_SHADOW_DUTY_PCT
#define FLEET_SHADOW_DUTY_PCT 100
#endif

/** A candidate that keeps state shadows in runs of contiguous inferences: at the start of each its state is the initial one, this
 * many answers are not counted, then FLEET_SHADOW_RUN are. With a duty of 100 percent there is one endless run. */
#ifndef FLEET_SHADOW_WARM_UP
#define FLEET_SHADOW_WARM_UP 32
#endif
#ifndef FLEET_SHADOW_RUN
#define FLEET_SHADOW_RUN 256
#endif

/** Inferences whose label may still come, a power of two; a label for an older one is refused. 6 B each. */
#ifndef FLEET_LABEL_RING
#define FLEET_LABEL_RING 16
#endif

/** Images with counters of their own at a time: one for each slot (2 a model), more to report longer on what was overwritten, 2..22. About 250 B each. */
#ifndef FLEET_COUNTER_IMAGES
#define FLEET_COUNTER_IMAGES (2 * FLEET_MODELS_MAX)
#endif

/** Classes counted apart, 2..32 (the wire allows 32); answers of others are counted in the other figures only. 4 B per image and class. */
#ifndef FLEET_CLASSES_MAX
#define FLEET_CLASSES_MAX 12
#endif

/** Buckets a latency histogram can hold at once, 4..32; more distinct ones join their nearest neighbour. 5 B each, 2 per image. */
#ifndef FLEET_LATENCY_BUCKETS
#define FLEET_LATENCY_BUCKETS 8
#endif

/** Events kept until they are handed to the send queue, 1..255; the oldest goes first when full, in a long outage. 40 B each. */
#ifndef FLEET_EVENT_RING
#define FLEET_EVENT_RING 8
#endif

/** Keys of each kind (root, release, director) a root may list, 1..4. 32 B each. */
#ifndef FLEET_ROOT_KEYS_MAX
#define FLEET_ROOT_KEYS_MAX 3
#endif

/** Bytes of one half of the journal at least; rounded up to whole erase blocks. Smaller means more erases. */
#ifndef FLEET_JOURNAL_BYTES
#define FLEET_JOURNAL_BYTES 4096
#endif

/** Image bytes written between two progress records, taken at borders of erase blocks: what a power cut costs, and an erase block. */
#ifndef FLEET_PROGRESS_BYTES
#define FLEET_PROGRESS_BYTES 8192
#endif

/** Chunks asked for at once, 1..8; falls to 1 after repeated losses. */
#ifndef FLEET_WINDOW
#define FLEET_WINDOW 8
#endif

/** A chunk, manifest or root that does not come within this is asked again, and `state` says `waiting`. */
#ifndef FLEET_CHUNK_TIMEOUT_MS
#define FLEET_CHUNK_TIMEOUT_MS 5000
#endif

/** Resets with a candidate in SHADOW or TESTING before it is REJECTED(ATTEMPTS_EXHAUSTED), 1..255. */
#ifndef FLEET_ATTEMPTS_MAX
#define FLEET_ATTEMPTS_MAX 3
#endif

/** Inferences above the latency budget while TESTING before the image is reverted with BUDGET_EXCEEDED, 1..255; each is a fault. */
#ifndef FLEET_BUDGET_FAULTS_MAX
#define FLEET_BUDGET_FAULTS_MAX 3
#endif

/** Failed downloads of one assignment before back-off, 1..255. Bounds flash wear under a lying broker. */
#ifndef FLEET_DOWNLOADS_MAX
#define FLEET_DOWNLOADS_MAX 3
#endif

/** First back-off after that, s; doubles with each further failure up to FLEET_BACKOFF_MAX_S. */
#ifndef FLEET_BACKOFF_S
#define FLEET_BACKOFF_S 3600
#endif
#ifndef FLEET_BACKOFF_MAX_S
#define FLEET_BACKOFF_MAX_S 86400
#endif

/** Reconnect delays: decorrelated jitter between these, ms. */
#ifndef FLEET_RECONNECT_MIN_MS
#define FLEET_RECONNECT_MIN_MS 500
#endif
#ifndef FLEET_RECONNECT_MAX_MS
#define FLEET_RECONNECT_MAX_MS 60000
#endif

/** Longest wait for a transport connection to come up, ms. */
#ifndef FLEET_CONNECT_TIMEOUT_MS
#define FLEET_CONNECT_TIMEOUT_MS 20000
#endif

/** MQTT keep-alive, s, 0..65535; 0 = off: a connection that died is noticed when the next report is not acknowledged. */
#ifndef FLEET_KEEP_ALIVE_S
#define FLEET_KEEP_ALIVE_S 60
#endif

/** Uptime without a fresh echo of the nonce is kept over resets in steps of this, s, one journal write each; a boot counts as one more. After so long = stale
 * (`fresh: false`), and nothing more is written until an echo comes. */
#ifndef FLEET_ECHO_STEP_S
#define FLEET_ECHO_STEP_S 3600
#endif
#ifndef FLEET_STALE_AFTER_S
#define FLEET_STALE_AFTER_S 604800
#endif

/** Bytes hashed per step while a written slot is read back: bounds the time of one fleet_agent_step. */
#ifndef FLEET_HASH_SLICE_BYTES
#define FLEET_HASH_SLICE_BYTES 16384
#endif

/** Audio front end of the runtime (operator FEATURES), 0 or 1. 2.7 KB of flash. */
#ifndef FLEET_WITH_FRONT_END
#define FLEET_WITH_FRONT_END 1
#endif

#endif
