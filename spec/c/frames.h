/* One good frame of every kind, as bytes: the golden rows of docs/PROTOCOL.md first. Specs cut them at every
 * place; the fuzz targets start from them (spec/fuzz/seeds.c). */
#ifndef ES_SPEC_C_FRAMES_H
#define ES_SPEC_C_FRAMES_H

static const struct sample {
    const char *name;
    const char *hex; /* type, length, body */
} samples[] = {
    {"hello", "001e000000 000102030405060708090a0b0c0d0e0f 02 01 04 80400000 03 02 4064"},
    {"request", "02 15 04 01 01 08 6d6174682e616464 80007530 03 00 920a14"},
    {"response", "04 06 00 01 00 00 911e"},
    {"failure", "04 2a 00 01 0c 00 10 6d6574686f645f6e6f745f666f756e64 12"
                "6e6f206d6574686f64206d6174682e737562 00 00"},
    {"event", "0c0f000100036c6f670091a568656c6c6f"},
    {"cancel", "0a 02 01 10"},
    /* not golden, but each with what the rows above lack */
    {"hello_full", "00 404c 01 4046 1c 000102030405060708090a0b0c0d0e0f 08 01 04 80400000 02 02 6000 03 01 07"
                   "04 06 10 04 63626f72 05 03 6c7561 06 10 01 0d 617574686f72697a6174696f6e 00 07 02 4100"
                   "6000 04 cafebabe"},
    {"request_metadata", "02 33 03 00 c000000000000001 05 617564696f 00 07 02 09 65732d616363657074 07"
                         "312e302d312e32 05 656d707479 00 414243 44454647"},
    {"response_idempotent", "04 0d 4100 01 00 01 01 6b 02 7676 911e 00"},
    {"failure_details", "04 15 00 02 02 00 08 736f6c645f6f7574 00 02 8000ea60 7b7d"},
    {"head", "06 02 00 00"},
    {"head_version", "06 0f 00 01 0a 65732d76657273696f6e 01 31"},
    {"data", "08 04 00 00 6869"},
    {"data_stamped", "08 0d 40c0 01 05 c0061f8b4e3c9d12 2a"},
    {"data_empty", "08 02 00 00"},
    {"event_stamped", "0c 18 4080 00 7bbd 04 7469636b c0061f8b4e3c9d12 01 01 61 01 62 ff"},
    {"goaway", "0e 0b 4e20 43e8 06 6465706c6f79"},
    {"ping", "11 04 80000001"},
    {"pong", "13 07 05 4006 80000007"},
    {"grease", "21 05 0102030405"},
    {"grease_empty", "40ff 00"},
};

#define N_SAMPLES (sizeof(samples) / sizeof(samples[0]))

#endif
