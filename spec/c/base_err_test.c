// needs: csrc/base/err.c
#include "test.h"
#include "../../csrc/base/err.h"

TEST(every_error_has_a_text)
{
    for (int e = ES_ERR_METADATA; e <= ES_OK; e++) {
        CHECK(strcmp(es_strerror(e), "unknown error") != 0);
    }
    CHECK_STR(es_strerror(ES_ERR_METADATA - 1), "unknown error");
    CHECK_STR(es_strerror(1), "unknown error");
}

TEST(status_and_code_string_belong_together)
{
    CHECK_STR(es_status_code(ES_STATUS_TIMEOUT), "timeout");
    CHECK_STR(es_status_code(ES_STATUS_METHOD_NOT_FOUND), "method_not_found");
    CHECK_STR(es_status_code(17), "unknown");
    CHECK_STR(es_status_code(-1), "unknown");
    for (int s = 0; s <= ES_STATUS_UNAUTHENTICATED; s++) {
        const char *code = es_status_code(s);
        CHECK_INT(es_status_of_code(code, strlen(code)), ==, s);
    }
}

TEST(the_seeds_kinds_have_a_status_and_a_users_code_is_unknown)
{
    CHECK_INT(es_status_of_code("serialization", 13), ==, ES_STATUS_INVALID_ARGUMENT);
    CHECK_INT(es_status_of_code("protocol", 8), ==, ES_STATUS_INTERNAL);
    CHECK_INT(es_status_of_code("connection_closed", 17), ==, ES_STATUS_UNAVAILABLE);
    CHECK_INT(es_status_of_code("io", 2), ==, ES_STATUS_UNAVAILABLE);
    CHECK_INT(es_status_of_code("sold_out", 8), ==, ES_STATUS_UNKNOWN);
    CHECK_INT(es_status_of_code("timeouts", 8), ==, ES_STATUS_UNKNOWN);
    CHECK_INT(es_status_of_code("timeouts", 7), ==, ES_STATUS_TIMEOUT);
    CHECK_INT(es_status_of_code("", 0), ==, ES_STATUS_UNKNOWN);
    CHECK_INT(es_status_of_code(NULL, 0), ==, ES_STATUS_UNKNOWN);
}
