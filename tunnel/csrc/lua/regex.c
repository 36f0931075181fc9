/* Regular expressions for rules: POSIX extended, from the C library, in the "C" locale's bytes.
 *
 * Patterns are the operator's, texts are visitors'. glibc matches patterns without back-references by an
 * automaton, so that no text makes it take exponential time; back-references (an extension of glibc) are
 * refused, and so are counts that would make the automaton huge. Texts are bounded by the caller's limits on
 * heads, and here again.
 */
#include "regex.h"
#include <lauxlib.h>
#include <regex.h>
#include <string.h>

#define REGEX_MT "echostream.tunnel.regex"

#define PATTERN_MAX 1024
#define TEXT_MAX    (64 * 1024)
#define COUNT_MAX   1000 /* the numbers in {n,m}, multiplied: so often is a part in the automaton */
#define GROUPS_MAX  9

struct regex {
    regex_t re;
    int ready; /* re is to be freed */
};

static int regex_gc(lua_State *L)
{
    struct regex *r = luaL_checkudata(L, 1, REGEX_MT);
    if (r->ready)
        regfree(&r->re);
    r->ready = 0;
    return 0;
}

/* The length of a bracket expression that begins at p[0] = '['. */
static size_t bracket(const char *p, size_t n)
{
    size_t i = 1;
    if (i < n && p[i] == '^')
        i++;
    if (i < n && p[i] == ']') /* the first one is a member */
        i++;
    while (i < n && p[i] != ']') {
        if (p[i] == '[' && i + 1 < n && (p[i + 1] == ':' || p[i + 1] == '.' || p[i + 1] == '=')) {
            char kind = p[i + 1];
            for (i += 2; i + 1 < n && !(p[i] == kind && p[i + 1] == ']'); i++)
                ;
            i++;
        }
        i++;
    }
    return i < n ? i + 1 : n;
}

/* NULL, or why the pattern is not taken. */
static const char *refused(const char *p, size_t n)
{
    unsigned long product = 1;
    if (n > PATTERN_MAX)
        return "it is longer than 1024 bytes";
    if (memchr(p, '\0', n))
        return "it has a NUL in it";
    for (size_t i = 0; i < n; i++) {
        if (p[i] == '\\' && i + 1 < n) {
            i++;
            if (p[i] >= '1' && p[i] <= '9')
                return "it has a back-reference";
        } else if (p[i] == '[') {
            i += bracket(p + i, n - i) - 1;
        } else if (p[i] == '{') {
            unsigned long most = 1, now = 0;
            for (i++; i < n && p[i] != '}'; i++) {
                now = p[i] >= '0' && p[i] <= '9' ? now * 10 + (unsigned long)(p[i] - '0') : 0;
                if (now > COUNT_MAX)
                    return "its counts are larger than 1000";
                most = now > most ? now : most;
            }
            product *= most;
            if (product > COUNT_MAX)
                return "its counts, multiplied, are larger than 1000";
        }
    }
    return NULL;
}

static int no(lua_State *L, const char *why)
{
    lua_pushnil(L);
    lua_pushstring(L, why);
    return 2;
}

/* regex(pattern, ignore_case) -> regex | nil, why */
static int core_regex(lua_State *L)
{
    size_t n = 0;
    const char *pattern = luaL_checklstring(L, 1, &n);
    int flags = REG_EXTENDED | (lua_toboolean(L, 2) ? REG_ICASE : 0);
    const char *why = refused(pattern, n);
    if (why)
        return no(L, why);
    struct regex *r = lua_newuserdatauv(L, sizeof *r, 0);
    r->ready = 0;
    luaL_setmetatable(L, REGEX_MT);
    int rv = regcomp(&r->re, pattern, flags);
    if (rv != 0) {
        char text[128];
        regerror(rv, &r->re, text, sizeof text);
        return no(L, text);
    }
    r->ready = 1;
    if (r->re.re_nsub > GROUPS_MAX)
        return no(L, "it has more than 9 groups");
    return 1;
}

static int match(lua_State *L, regmatch_t *m, size_t groups)
{
    struct regex *r = luaL_checkudata(L, 1, REGEX_MT);
    size_t n = 0;
    const char *text = luaL_checklstring(L, 2, &n);
    if (!r->ready || n > TEXT_MAX)
        return 0;
    m[0].rm_so = 0; /* REG_STARTEND: the text may have NULs in it */
    m[0].rm_eo = (regoff_t)n;
    return regexec(&r->re, text, groups, m, REG_STARTEND) == 0;
}

/* regex:test(text) -> boolean */
static int regex_test(lua_State *L)
{
    regmatch_t m[1];
    lua_pushboolean(L, match(L, m, 1));
    return 1;
}

/* regex:exec(text) -> first, last, group 1, group 2 … (false: it took no part) | nil */
static int regex_exec(lua_State *L)
{
    regmatch_t m[GROUPS_MAX + 1];
    if (!match(L, m, GROUPS_MAX + 1)) {
        lua_pushnil(L);
        return 1;
    }
    const struct regex *r = lua_touserdata(L, 1);
    const char *text = lua_tostring(L, 2);
    int groups = (int)r->re.re_nsub;
    lua_pushinteger(L, m[0].rm_so + 1);
    lua_pushinteger(L, m[0].rm_eo);
    for (int i = 1; i <= groups; i++) {
        if (m[i].rm_so < 0)
            lua_pushboolean(L, 0);
        else
            lua_pushlstring(L, text + m[i].rm_so, (size_t)(m[i].rm_eo - m[i].rm_so));
    }
    return 2 + groups;
}

void et_lua_open_regex(lua_State *L)
{
    static const luaL_Reg methods[] = {{"test", regex_test}, {"exec", regex_exec}, {NULL, NULL}};
    luaL_newmetatable(L, REGEX_MT);
    lua_pushcfunction(L, regex_gc);
    lua_setfield(L, -2, "__gc");
    luaL_newlib(L, methods);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
    lua_pushcfunction(L, core_regex);
    lua_setfield(L, -2, "regex");
}
