/* Sets of certificates, and whom clients trust. */
#include "tls_internal.h"
#include <stdio.h>
#include <string.h>
#include <gnutls/abstract.h>
#include <gnutls/crypto.h>
#include <gnutls/x509.h>

/* TLS 1.3 and 1.2 with forward secrecy and authenticated encryption only, as HTTP/2 asks for (RFC
 * 9113 9.2.2); AES first: it is in the processor. */
static const char policy[] =
    "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:-CIPHER-ALL:+AES-128-GCM:+AES-256-GCM:"
    "+CHACHA20-POLY1305:-RSA:-DHE-RSA:%SERVER_PRECEDENCE";

static int fail(char *reason, size_t n, const char *what, const char *detail, int rv)
{
    if (reason != NULL) {
        snprintf(reason, n, "%s%s%s%s%s", what, detail != NULL ? " " : "", detail != NULL ? detail : "",
                 rv != 0 ? ": " : "", rv != 0 ? gnutls_strerror(rv) : "");
    }
    return rv == GNUTLS_E_MEMORY_ERROR ? ES_ERR_NOMEM : ES_ERR_TLS;
}

static int no_memory(char *reason, size_t n)
{
    if (reason != NULL) {
        snprintf(reason, n, "out of memory");
    }
    return ES_ERR_NOMEM;
}

/* ---- ALPN ---- */

static void free_alpn(struct et_alpn *a)
{
    for (unsigned i = 0; i < a->n; i++) {
        es_free(a->name[i].data);
    }
    a->n = 0;
}

static int copy_alpn(struct et_alpn *a, const char *const *names, char *reason, size_t n)
{
    for (; names != NULL && *names != NULL; names++) {
        size_t k = strlen(*names);
        if (a->n == ET_ALPN_MAX || k == 0 || k > 255) {
            return fail(reason, n, "ALPN: at most 8 names of 1 to 255 bytes", NULL, 0);
        }
        a->name[a->n].data = es_malloc(k);
        if (a->name[a->n].data == NULL) {
            return no_memory(reason, n);
        }
        memcpy(a->name[a->n].data, *names, k);
        a->name[a->n++].size = (unsigned)k;
    }
    return 0;
}

/* ---- certificates ---- */

static gnutls_datum_t datum(const char *text)
{
    return (gnutls_datum_t){(unsigned char *)(uintptr_t)text, (unsigned)strlen(text)};
}

void et_certs_unref(struct et_certs *c)
{
    if (c == NULL || --c->refs != 0) {
        return;
    }
    for (size_t i = 0; i < c->n; i++) {
        for (size_t k = 0; k < c->cert[i].names; k++) {
            es_free(c->cert[i].name[k]);
        }
        es_free(c->cert[i].name);
        if (c->cert[i].cred != NULL) {
            gnutls_certificate_free_credentials(c->cert[i].cred);
        }
    }
    es_free(c);
}

/* Names that are no host names are left out: nobody can ask for them. */
static int add_name(struct et_cert *c, const char *name, size_t n)
{
    char **list, *copy;

    if (n == 0 || n > 253 || memchr(name, '\0', n) != NULL) {
        return 0;
    }
    list = es_realloc(c->name, (c->names + 1) * sizeof *list);
    if (list == NULL) {
        return ES_ERR_NOMEM;
    }
    c->name = list;
    copy = es_malloc(n + 1);
    if (copy == NULL) {
        return ES_ERR_NOMEM;
    }
    for (size_t i = 0; i < n; i++) {
        copy[i] = name[i] >= 'A' && name[i] <= 'Z' ? (char)(name[i] + 32) : name[i];
    }
    copy[n] = '\0';
    c->name[c->names++] = copy;
    return 0;
}

static int names_of(struct et_cert *c, const char *pem)
{
    gnutls_x509_crt_t crt;
    gnutls_datum_t in = datum(pem);
    int rv = 0, found = 0;

    if (gnutls_x509_crt_init(&crt) != 0) {
        return ES_ERR_NOMEM;
    }
    if (gnutls_x509_crt_import(crt, &in, GNUTLS_X509_FMT_PEM) != 0) {
        gnutls_x509_crt_deinit(crt);
        return ES_ERR_TLS;
    }
    for (unsigned i = 0; rv == 0; i++) {
        char name[256];
        size_t n = sizeof name;
        int type = gnutls_x509_crt_get_subject_alt_name(crt, i, name, &n, NULL);
        if (type == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE) {
            break;
        }
        if (type == GNUTLS_SAN_DNSNAME) {
            found = 1;
            rv = add_name(c, name, n);
        }
    }
    if (rv == 0 && !found) {
        char name[256];
        size_t n = sizeof name;
        if (gnutls_x509_crt_get_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, 0, name, &n) == 0) {
            rv = add_name(c, name, n);
        }
    }
    gnutls_x509_crt_deinit(crt);
    return rv;
}

static int load(struct et_cert *to, const struct et_tls_cert *from, size_t number, char *reason, size_t n)
{
    gnutls_datum_t cert = datum(from->cert_pem), key = datum(from->key_pem);
    char which[32];
    int rv;

    snprintf(which, sizeof which, "number %zu", number + 1);
    rv = gnutls_certificate_allocate_credentials(&to->cred);
    if (rv != 0) {
        to->cred = NULL;
        return no_memory(reason, n);
    }
    rv = gnutls_certificate_set_x509_key_mem(to->cred, &cert, &key, GNUTLS_X509_FMT_PEM);
    if (rv < 0) {
        return fail(reason, n, "cannot use the certificate and key", which, rv);
    }
    for (const char *const *name = from->names; name != NULL && *name != NULL; name++) {
        if (add_name(to, *name, strlen(*name)) != 0) {
            return no_memory(reason, n);
        }
    }
    if (from->names == NULL && (rv = names_of(to, from->cert_pem)) != 0) {
        return rv == ES_ERR_NOMEM ? no_memory(reason, n)
                                  : fail(reason, n, "cannot read the names of certificate", which, 0);
    }
    return 0;
}

static int load_all(const struct et_tls_cert *certs, size_t n, struct et_certs **out, char *reason, size_t k)
{
    struct et_certs *c;

    *out = NULL;
    if (n == 0) {
        return fail(reason, k, "a TLS server needs a certificate", NULL, 0);
    }
    c = es_calloc(1, sizeof *c + n * sizeof c->cert[0]);
    if (c == NULL) {
        return no_memory(reason, k);
    }
    c->refs = 1;
    for (; c->n < n; c->n++) {
        int rv = load(&c->cert[c->n], &certs[c->n], c->n, reason, k);
        if (rv != 0) {
            c->n++;
            et_certs_unref(c);
            return rv;
        }
    }
    *out = c;
    return 0;
}

static int same_name(const char *a, const char *asked)
{
    for (; *a != '\0' && *asked != '\0'; a++, asked++) {
        char c = *asked >= 'A' && *asked <= 'Z' ? (char)(*asked + 32) : *asked;
        if (*a != c) {
            return 0;
        }
    }
    return *a == '\0' && *asked == '\0';
}

const struct et_cert *et_certs_for(const struct et_tls_server *t, const struct et_certs *c, const char *name)
{
    const char *rest = strchr(name, '.');
    const struct et_cert *wild = NULL;

    for (size_t i = 0; i < c->n && name[0] != '\0'; i++) {
        for (size_t k = 0; k < c->cert[i].names; k++) {
            const char *own = c->cert[i].name[k];
            if (same_name(own, name)) {
                return &c->cert[i];
            }
            if (wild == NULL && own[0] == '*' && own[1] == '.' && rest != NULL && rest != name &&
                same_name(own + 1, rest)) {
                wild = &c->cert[i];
            }
        }
    }
    return wild != NULL ? wild : t->strict ? NULL : &c->cert[0];
}

/* ---- servers ---- */

void et_tls_server_ref(struct et_tls_server *t)
{
    t->refs++;
}

void et_tls_server_unref(struct et_tls_server *t)
{
    if (t == NULL || --t->refs != 0) {
        return;
    }
    et_certs_unref(t->certs);
    free_alpn(&t->alpn);
    if (t->priority != NULL) {
        gnutls_priority_deinit(t->priority);
    }
    if (t->ticket_key.data != NULL) {
        gnutls_memset(t->ticket_key.data, 0, t->ticket_key.size);
        gnutls_free(t->ticket_key.data);
    }
    es_free(t);
}

int et_tls_server_new(const struct et_tls_cert *certs, size_t n, const char *const *alpn, int strict,
                      struct et_tls_server **out, char *reason, size_t reason_n)
{
    struct et_tls_server *t = es_calloc(1, sizeof *t);
    int rv;

    *out = NULL;
    if (t == NULL) {
        return no_memory(reason, reason_n);
    }
    t->refs = 1;
    t->strict = strict;
    if ((rv = load_all(certs, n, &t->certs, reason, reason_n)) != 0 ||
        (rv = copy_alpn(&t->alpn, alpn, reason, reason_n)) != 0) {
        et_tls_server_unref(t);
        return rv;
    }
    rv = gnutls_priority_init(&t->priority, policy, NULL);
    if (rv != 0) {
        t->priority = NULL;
    } else {
        rv = gnutls_session_ticket_key_generate(&t->ticket_key);
    }
    if (rv != 0) {
        et_tls_server_unref(t);
        return fail(reason, reason_n, "cannot set up TLS", NULL, rv);
    }
    *out = t;
    return 0;
}

int et_tls_server_swap(struct et_tls_server *t, const struct et_tls_cert *certs, size_t n, char *reason,
                       size_t reason_n)
{
    struct et_certs *fresh;
    int rv = load_all(certs, n, &fresh, reason, reason_n);

    if (rv == 0) {
        et_certs_unref(t->certs);
        t->certs = fresh;
    }
    return rv;
}

/* ---- clients ---- */

int et_tls_spki(const gnutls_datum_t *der, uint8_t out[32])
{
    gnutls_x509_crt_t crt = NULL;
    gnutls_pubkey_t key = NULL;
    gnutls_datum_t spki = {NULL, 0};
    int ok = 0;

    if (gnutls_x509_crt_init(&crt) == 0 && gnutls_pubkey_init(&key) == 0 &&
        gnutls_x509_crt_import(crt, der, GNUTLS_X509_FMT_DER) == 0 &&
        gnutls_pubkey_import_x509(key, crt, 0) == 0 &&
        gnutls_pubkey_export2(key, GNUTLS_X509_FMT_DER, &spki) == 0) {
        ok = gnutls_hash_fast(GNUTLS_DIG_SHA256, spki.data, spki.size, out) == 0;
        gnutls_free(spki.data);
    }
    if (key != NULL) {
        gnutls_pubkey_deinit(key);
    }
    if (crt != NULL) {
        gnutls_x509_crt_deinit(crt);
    }
    return ok ? 0 : -1;
}

static int read_pin(const char *pin, uint8_t out[32])
{
    static const char digits[] = "0123456789abcdef";

    if (strncmp(pin, "sha256:", 7) != 0 || strlen(pin) != 7 + 64) {
        return -1;
    }
    for (int i = 0; i < 64; i++) {
        char c = pin[7 + i];
        const char *d = strchr(digits, c >= 'A' && c <= 'F' ? c + 32 : c);
        if (d == NULL) {
            return -1;
        }
        out[i / 2] = (uint8_t)(i % 2 == 0 ? (d - digits) << 4 : out[i / 2] | (d - digits));
    }
    return 0;
}

void et_tls_client_unref(struct et_tls_client *t)
{
    if (t == NULL || --t->refs != 0) {
        return;
    }
    free_alpn(&t->alpn);
    if (t->priority != NULL) {
        gnutls_priority_deinit(t->priority);
    }
    if (t->cred != NULL) {
        gnutls_certificate_free_credentials(t->cred);
    }
    es_free(t);
}

static int load_client(struct et_tls_client *t, const char *ca_pem, const char *cert_pem, const char *key_pem,
                       char *reason, size_t n)
{
    gnutls_datum_t a, b;
    int rv = gnutls_priority_init(&t->priority, policy, NULL);

    if (rv != 0 || (rv = gnutls_certificate_allocate_credentials(&t->cred)) != 0) {
        return fail(reason, n, "cannot set up TLS", NULL, rv);
    }
    if (t->verify && !t->has_pin && ca_pem == NULL) {
        rv = gnutls_certificate_set_x509_system_trust(t->cred);
        if (rv < 0) {
            return fail(reason, n, "cannot load the system's authorities", NULL, rv);
        }
    } else if (t->verify && !t->has_pin) {
        a = datum(ca_pem);
        rv = gnutls_certificate_set_x509_trust_mem(t->cred, &a, GNUTLS_X509_FMT_PEM);
        if (rv <= 0) {
            return fail(reason, n, "there is no certificate in the authorities given", NULL, rv);
        }
    }
    if ((cert_pem == NULL) != (key_pem == NULL)) {
        return fail(reason, n, "a certificate needs its key, and a key its certificate", NULL, 0);
    }
    if (cert_pem != NULL) {
        a = datum(cert_pem);
        b = datum(key_pem);
        rv = gnutls_certificate_set_x509_key_mem(t->cred, &a, &b, GNUTLS_X509_FMT_PEM);
        if (rv < 0) {
            return fail(reason, n, "cannot use the client's certificate and key", NULL, rv);
        }
    }
    return 0;
}

int et_tls_client_new(const char *ca_pem, const char *pin, int verify, const char *cert_pem,
                      const char *key_pem, const char *const *alpn, struct et_tls_client **out, char *reason,
                      size_t reason_n)
{
    struct et_tls_client *t = es_calloc(1, sizeof *t);
    int rv;

    *out = NULL;
    if (t == NULL) {
        return no_memory(reason, reason_n);
    }
    t->refs = 1;
    t->verify = verify;
    t->has_pin = pin != NULL;
    if (pin != NULL && read_pin(pin, t->pin) != 0) {
        et_tls_client_unref(t);
        return fail(reason, reason_n, "a pin is \"sha256:\" and 64 hexadecimal digits", NULL, 0);
    }
    if ((rv = copy_alpn(&t->alpn, alpn, reason, reason_n)) != 0 ||
        (rv = load_client(t, ca_pem, cert_pem, key_pem, reason, reason_n)) != 0) {
        et_tls_client_unref(t);
        return rv;
    }
    *out = t;
    return 0;
}

const char *et_tls_version(void)
{
    return gnutls_check_version(NULL);
}
