package gateway

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"

	"kith/proto"
)

// statusOf is the one place where codes become HTTP statuses.
func statusOf(c proto.Code) int {
	switch c {
	case proto.CodeUnauthorized:
		return http.StatusUnauthorized
	case proto.CodeForbidden, proto.CodeOptedOut, proto.CodeFloor, proto.CodeBelow:
		return http.StatusForbidden
	case proto.CodeNotFound:
		return http.StatusNotFound
	case proto.CodeMethod:
		return http.StatusMethodNotAllowed
	case proto.CodeConflict:
		return http.StatusConflict
	case proto.CodeTooLarge:
		return http.StatusRequestEntityTooLarge
	case proto.CodeMediaType:
		return http.StatusUnsupportedMediaType
	case proto.CodeRateLimited:
		return http.StatusTooManyRequests
	case proto.CodeUnavailable, proto.CodeOverloaded, proto.CodeDiskFull, proto.CodeQuarantined:
		return http.StatusServiceUnavailable
	case proto.CodeTimeout:
		return http.StatusGatewayTimeout
	case proto.CodeCorrupt, proto.CodeInternal:
		return http.StatusInternalServerError
	}
	return http.StatusBadRequest
}

// asError finds the house error in err, or makes one: a passed deadline is a
// timeout, anything else is a bug whose text stays inside.
func asError(err error) *proto.Error {
	var e *proto.Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return proto.Errorf(proto.CodeTimeout, "the deadline passed: try again")
	}
	return proto.Errorf(proto.CodeInternal, "an internal error: the node's log has more")
}

func messageOf(err error) string { return asError(err).Message }

// appendError writes the error body of CONTRACT.
func appendError(b []byte, e *proto.Error) []byte {
	b = append(b, `{"error":{"code":`...)
	b = appendText(b, string(e.Code))
	b = append(b, `,"message":`...)
	b = appendText(b, e.Message)
	if e.Line > 0 {
		b = append(b, `,"line":`...)
		b = strconv.AppendInt(b, int64(e.Line), 10)
		b = append(b, `,"column":`...)
		b = strconv.AppendInt(b, int64(e.Column), 10)
	}
	return append(b, "}}\n"...)
}

// appendText writes s as a JSON string; invalid UTF-8 becomes U+FFFD.
func appendText(b []byte, s string) []byte {
	const digits = "0123456789abcdef"
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' && c != '<' {
				i++
				continue
			}
			b = append(b, s[from:i]...)
			if c == '"' || c == '\\' {
				b = append(b, '\\', c)
			} else {
				b = append(b, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
			}
			i++
			from = i
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 {
			b = append(b, s[from:i]...)
			b = append(b, "\ufffd"...)
			from = i + 1
		}
		i += n
	}
	b = append(b, s[from:]...)
	return append(b, '"')
}

// fail answers with err. It sets Retry-After where trying again may help.
func fail(w http.ResponseWriter, err error) int {
	e := asError(err)
	status := statusOf(e.Code)
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		w.Header()["Retry-After"] = []string{retryAfter(e)}
	}
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	writeJSON(w, status, appendError(nil, e))
	return status
}

// retryAfter is in how many whole seconds to try again, at least one.
func retryAfter(e *proto.Error) string {
	return strconv.FormatInt(max(1, int64((e.RetryAfter+time.Second-1)/time.Second)), 10)
}

var jsonType = []string{"application/json"}

// writeJSON answers with bytes that are JSON already.
func writeJSON(w http.ResponseWriter, status int, b []byte) {
	h := w.Header()
	h["Content-Type"] = jsonType
	h["Content-Length"] = []string{strconv.Itoa(len(b))}
	w.WriteHeader(status)
	_, _ = w.Write(b) // a caller that went away is no error of ours
}
