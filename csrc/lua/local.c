/* What processes of one machine that share a directory need to agree on who has which socket: whether
 * somebody listens at a path, and a lock that ends with its holder, however that ends. Neither waits for the
 * network. */
#include "binding.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include "luaaux.h"

#define LOCK_MT "echostream.lock"
/* Who has the lock holds it for some system calls; a process that was stopped while it did is not waited for.
 */
#define TRIES 1000
#define PAUSE 1000000 /* ns */

/* nil, text; 2 */
static int failure(lua_State *L, const char *path, int error)
{
    lua_pushnil(L);
    lua_pushfstring(L, "%s: %s", path, strerror(error));
    return 2;
}

/* core.socket_answers(path): true: somebody listens there; false: nobody does, or there is nothing; nil,
 * text: it cannot be known. A connect to a unix socket is decided at once. */
static int core_socket_answers(lua_State *L)
{
    size_t length;
    const char *path = luaL_checklstring(L, 1, &length);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd, error = 0;

    if (length >= sizeof address.sun_path)
        return failure(L, path, ENAMETOOLONG);
    memcpy(address.sun_path, path, length);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return failure(L, path, errno);
    if (connect(fd, (const struct sockaddr *)&address, sizeof address) != 0)
        error = errno;
    close(fd);
    if (error == 0 || error == EAGAIN) { /* EAGAIN: more wait there already than fit */
        lua_pushboolean(L, 1);
        return 1;
    }
    if (error == ECONNREFUSED || error == ENOENT) {
        lua_pushboolean(L, 0);
        return 1;
    }
    return failure(L, path, error);
}

static int lock_release(lua_State *L)
{
    int *fd = luaL_checkudata(L, 1, LOCK_MT);

    if (*fd >= 0)
        close(*fd);
    *fd = -1;
    return 0;
}

/* core.lock_file(path): the lock, which nobody else has until it is released; or nil, text. The file is made
 * and stays: whoever removed it would let two have the lock. */
static int core_lock_file(lua_State *L)
{
    const char *path = es_lua_check_text(L, 1, NULL);
    const struct timespec pause = {.tv_nsec = PAUSE};
    int *fd = es_lua_new(L, LOCK_MT, sizeof *fd, 0);

    *fd = -1;
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (*fd < 0)
        return failure(L, path, errno);
    for (int i = 0; flock(*fd, LOCK_EX | LOCK_NB) != 0; i++) {
        int error = errno;

        if ((error != EWOULDBLOCK && error != EINTR) || i == TRIES) {
            close(*fd);
            *fd = -1;
            return failure(L, path, error);
        }
        (void)nanosleep(&pause, NULL);
    }
    return 1;
}

void es_lua_open_local(lua_State *L, int core)
{
    static const luaL_Reg methods[] = {{"release", lock_release}, {NULL, NULL}};
    static const luaL_Reg metamethods[] = {{"__gc", lock_release}, {"__close", lock_release}, {NULL, NULL}};

    es_lua_class(L, LOCK_MT, methods, metamethods);
    lua_pushcfunction(L, core_socket_answers);
    lua_setfield(L, core, "socket_answers");
    lua_pushcfunction(L, core_lock_file);
    lua_setfield(L, core, "lock_file");
}
