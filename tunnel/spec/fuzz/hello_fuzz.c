// needs: tunnel/csrc/net/hello.c
/* The first bytes of a connection: a judgement never changes when more comes, and a name is one. */
#include <stdlib.h>
#include <string.h>
#include "../../../csrc/base/err.h"
#include "../../csrc/net/hello.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char name[ET_HELLO_NAME], whole[ET_HELLO_NAME];
    int last = et_hello_name(data, size, whole);

    if ((last != 0 && whole[0] != '\0') || strlen(whole) >= ET_HELLO_NAME) {
        abort();
    }
    for (size_t n = 0; n < size && n < 600; n++) {
        int rv = et_hello_name(data, n, name);
        if (rv != ES_ERR_AGAIN && (rv != last || strcmp(name, whole) != 0)) {
            abort();
        }
    }
    return 0;
}
