/* The peer that users know: gRPC C++ over TLS, unary calls that echo a payload, with its asynchronous interface on both
 * sides (its fastest) and one completion queue in one thread of the bench's own each, as the other peers and we have.
 *
 *   grpc_peer server PORT CERT KEY                              prints "ready", answers until it is killed
 *   grpc_peer calls PORT CERT CONNECTIONS IN_FLIGHT BYTES COUNT PID   prints key=value words; PID: the server's
 *
 * CONNECTIONS channels of one TCP connection each share IN_FLIGHT calls. Every call has a new payload, and the answer
 * is compared.
 */
#include <grpcpp/grpcpp.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>
#include "grpc_echo.grpc.pb.h"

namespace {

std::string read_file(const char *path)
{
    std::ifstream in(path);
    std::ostringstream text;
    text << in.rdbuf();
    if (!in) {
        std::cerr << "grpc_peer: cannot read " << path << "\n";
        exit(1);
    }
    return text.str();
}

int64_t now_ns()
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* ---- the server ---- */

struct Served { /* one call from its request to its answer; then the next */
    bench::Echo::AsyncService *service;
    grpc::ServerCompletionQueue *queue;
    grpc::ServerContext context;
    bench::Payload request, response;
    grpc::ServerAsyncResponseWriter<bench::Payload> writer{&context};
    bool answered = false;

    Served(bench::Echo::AsyncService *s, grpc::ServerCompletionQueue *q) : service(s), queue(q)
    {
        service->RequestCall(&context, &request, &writer, queue, queue, this);
    }

    void go_on(bool ok)
    {
        if (answered || !ok) {
            delete this;
            return;
        }
        new Served(service, queue);
        response.set_data(request.data());
        answered = true;
        writer.Finish(response, grpc::Status::OK, this);
    }
};

int serve(const char *port, const char *cert, const char *key)
{
    grpc::SslServerCredentialsOptions tls;
    tls.pem_key_cert_pairs.push_back({read_file(key), read_file(cert)});
    bench::Echo::AsyncService service;
    grpc::ServerBuilder builder;
    builder.AddListeningPort(std::string("127.0.0.1:") + port, grpc::SslServerCredentials(tls));
    builder.RegisterService(&service);
    builder.SetMaxReceiveMessageSize(16 << 20);
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    auto queue = builder.AddCompletionQueue();
    auto server = builder.BuildAndStart();
    if (!server) {
        std::cerr << "grpc_peer: cannot listen on port " << port << "\n";
        return 1;
    }
    for (int i = 0; i < 512; i++)
        new Served(&service, queue.get());
    std::cout << "ready" << std::endl;
    void *tag;
    bool ok;
    while (queue->Next(&tag, &ok))
        static_cast<Served *>(tag)->go_on(ok);
    return 0;
}

/* ---- the client ---- */

struct Bench {
    grpc::CompletionQueue queue;
    std::vector<std::unique_ptr<bench::Echo::Stub>> stubs;
    std::string fill;
    uint64_t issued = 0, done = 0;
};

struct Asked { /* one of IN_FLIGHT places, used again and again */
    Bench *b;
    size_t place;
    bench::Payload request, response;
    grpc::Status status;
    std::unique_ptr<grpc::ClientContext> context;
    std::unique_ptr<grpc::ClientAsyncResponseReader<bench::Payload>> reader;

    void begin()
    {
        std::string *data = request.mutable_data();
        data->assign(b->fill);
        uint64_t i = ++b->issued;
        memcpy(&(*data)[0], &i, sizeof i);
        context = std::make_unique<grpc::ClientContext>();
        auto deadline = std::chrono::system_clock::now() + std::chrono::seconds(30);
        context->set_deadline(deadline); /* as ours has by default */
        reader = b->stubs[place % b->stubs.size()]->AsyncCall(context.get(), request, &b->queue);
        reader->Finish(&response, &status, this);
    }

    void check()
    {
        if (!status.ok() || response.data() != request.data()) {
            std::cerr << "grpc_peer: a wrong answer: " << status.error_message() << "\n";
            exit(1);
        }
    }
};

void run(Bench &b, std::vector<Asked> &places, uint64_t count)
{
    uint64_t end = b.issued + count, left = 0;
    for (auto &a : places) {
        if (b.issued == end)
            break;
        a.begin();
        left++;
    }
    void *tag;
    bool ok;
    while (left > 0 && b.queue.Next(&tag, &ok)) {
        auto *a = static_cast<Asked *>(tag);
        a->check();
        if (b.issued < end)
            a->begin();
        else
            left--;
    }
}

int64_t process_cpu_ns(const char *pid)
{
    std::string root = std::string("/proc/") + pid + "/task";
    int64_t total = 0;
    std::string command = "cat " + root + "/*/schedstat 2>/dev/null";
    if (FILE *f = popen(command.c_str(), "r")) {
        long long ns;
        while (fscanf(f, "%lld %*s %*s", &ns) == 1)
            total += ns;
        pclose(f);
    }
    return total;
}

int64_t own_cpu_ns()
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return ((int64_t)u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000000 +
           ((int64_t)u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000;
}

int ask(char **argv)
{
    const char *port = argv[2], *pid = argv[8];
    size_t connections = strtoul(argv[4], nullptr, 10), in_flight = strtoul(argv[5], nullptr, 10);
    size_t bytes = strtoul(argv[6], nullptr, 10);
    uint64_t count = strtoull(argv[7], nullptr, 10);
    grpc::SslCredentialsOptions tls;
    tls.pem_root_certs = read_file(argv[3]);
    Bench b;
    b.fill.assign(std::max(bytes, sizeof(uint64_t)), '.');
    for (size_t i = 0; i < connections; i++) {
        grpc::ChannelArguments args;
        args.SetSslTargetNameOverride("localhost");
        args.SetMaxReceiveMessageSize(16 << 20);
        args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1); /* a connection of its own */
        auto channel = grpc::CreateCustomChannel(std::string("127.0.0.1:") + port, grpc::SslCredentials(tls), args);
        b.stubs.push_back(bench::Echo::NewStub(channel));
    }
    std::vector<Asked> places(in_flight);
    for (size_t i = 0; i < in_flight; i++) {
        places[i].b = &b;
        places[i].place = i;
    }
    run(b, places, std::min<uint64_t>(count, std::max<uint64_t>(in_flight * 4, count / 10))); /* connects, warms up */
    int64_t server0 = process_cpu_ns(pid), own0 = own_cpu_ns(), t0 = now_ns();
    run(b, places, count);
    int64_t t1 = now_ns(), own1 = own_cpu_ns(), server1 = process_cpu_ns(pid);
    printf("calls=%llu wall_ns=%lld cpu_ns=%lld server_cpu_ns=%lld\n", (unsigned long long)count, (long long)(t1 - t0),
           (long long)(own1 - own0), (long long)(server1 - server0));
    fflush(stdout);
    _exit(0); /* taking many channels down is not what is measured */
}

} // namespace

int main(int argc, char **argv)
{
    if (argc == 5 && strcmp(argv[1], "server") == 0)
        return serve(argv[2], argv[3], argv[4]);
    if (argc == 9 && strcmp(argv[1], "calls") == 0)
        return ask(argv);
    fprintf(stderr, "usage: grpc_peer server PORT CERT KEY\n"
                    "       grpc_peer calls PORT CERT CONNECTIONS IN_FLIGHT BYTES COUNT SERVER_PID\n");
    return 2;
}
