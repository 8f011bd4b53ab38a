package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kith/internal/ingest"
	"kith/proto"
)

// Bounds of an answer that is read whole.
const (
	answerBytesMax   = 64 << 20
	segmentsBytesMax = 1 << 30 // of a list of segments: 20,000 with two rules each, whose quotes are escaped
)

// connection is the service plane of a node, as a command's flags name it.
type connection struct {
	getenv               func(string) string
	service, key, client string
	http                 http.Client
}

// flags adds --service, --key and --client.
func (c *connection) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.service, "service", cmp.Or(c.getenv("KITH_SERVICE"), "127.0.0.1:8081"), "`ADDR`ess of the node's service plane, or its https:// URL (or KITH_SERVICE)")
	cmd.Flags().StringVar(&c.key, "key", "", "service key (or KITH_KEY)")
	client := &checkedFlag{text: c.client, kind: "string", set: func(text string) error {
		if text == "" { // of a variable that is not set: without a client an erasure is for all
			return usagef("name the client, or leave --client out")
		}
		c.client = text
		return nil
	}}
	cmd.Flags().Var(client, "client", "client's name, which an admin key must give (or KITH_CLIENT)")
}

func (c *connection) clientName() string { return cmp.Or(c.client, c.getenv("KITH_CLIENT")) }

// withScheme makes a base URL of an address.
func withScheme(addr string) string {
	if !strings.Contains(addr, "://") {
		addr = "http://" + addr
	}
	return strings.TrimSuffix(addr, "/")
}

// planeURL reports whether addr is the address of a plane, or its URL, behind which a
// path may be put.
func planeURL(addr string) bool {
	u, err := url.Parse(withScheme(addr))
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname()+u.Port() != "" && u.RawQuery == "" && u.Fragment == ""
}

func (c *connection) url(path string, query url.Values) string {
	if name := c.clientName(); name != "" {
		own := url.Values{} // the caller's query may be in use by other posts just now
		maps.Copy(own, query)
		own.Set("client", name)
		query = own
	}
	u := withScheme(c.service) + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	return u
}

// keyless makes a request without the key; in is a body of JSON, or nil.
func (c *connection) keyless(ctx context.Context, method, path string, query url.Values, in any) (*http.Request, error) {
	var body io.Reader
	switch v := in.(type) {
	case nil:
	case []byte:
		body = bytes.NewReader(v)
	default:
		b, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.url(path, query), body)
	if err != nil || !planeURL(c.service) {
		return nil, usagef("--service %q is not an address: write host:port or a URL", c.service)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	return r, nil
}

// request makes a request with the key; in is a body of JSON, or nil.
func (c *connection) request(ctx context.Context, method, path string, query url.Values, in any) (*http.Request, error) {
	r, err := c.keyless(ctx, method, path, query, in)
	if err != nil {
		return nil, err
	}
	key := cmp.Or(c.key, c.getenv("KITH_KEY"))
	if key == "" {
		return nil, usagef("no service key: pass --key or set KITH_KEY (a node started with --dev knows %q)", "demo-key")
	}
	if strings.ContainsFunc(key, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
		return nil, usagef("the service key has a space or an end of line in it, which none has: pass the key alone")
	}
	r.Header.Set("Authorization", "Bearer "+key)
	return r, nil
}

// do sends a request and gives the answer if its status is 2xx, else the
// node's error. The caller closes the body.
func (c *connection) do(r *http.Request) (*http.Response, error) {
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, c.unreachable(r.Context(), err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, answerError(resp)
}

func (c *connection) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return proto.Errorf(proto.CodeInvalid, "the name in --service %s is not known", c.service)
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return proto.Errorf(proto.CodeUnavailable, "cannot reach the node at %s: start one with `make run`, or pass --service (%w)", c.service, err)
}

// answerError reads the error that the service plane sends.
func answerError(resp *http.Response) error {
	var body struct {
		Error struct {
			Code         proto.Code
			Message      string
			Line, Column int
		}
	}
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	var e *proto.Error
	if err := json.Unmarshal(b, &body); err != nil || body.Error.Code == "" {
		e = proto.Errorf(statusCode(resp.StatusCode), "%s answered %s: is --service the address of a kith node?", resp.Request.URL.Host, resp.Status)
	} else {
		e = proto.Errorf(body.Error.Code, "%s", body.Error.Message)
		e.Line, e.Column = body.Error.Line, body.Error.Column
	}
	if s, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 32); err == nil {
		e.RetryAfter = time.Duration(s) * time.Second
	}
	return e
}

func statusCode(status int) proto.Code {
	switch status {
	case http.StatusServiceUnavailable, http.StatusBadGateway, http.StatusGatewayTimeout:
		return proto.CodeUnavailable
	case http.StatusTooManyRequests:
		return proto.CodeRateLimited
	case http.StatusRequestEntityTooLarge: // of a proxy, such as nginx
		return proto.CodeTooLarge
	}
	return proto.CodeInvalid
}

// call sends in and reads the answer into out; either may be nil.
func (c *connection) call(ctx context.Context, method, path string, query url.Values, in, out any) error {
	r, err := c.request(ctx, method, path, query, in)
	if err != nil {
		return err
	}
	return c.send(r, out)
}

// send sends a request and reads the answer into out, which may be nil.
func (c *connection) send(r *http.Request, out any) error { return c.sendFor(r, out, answerBytesMax) }

// sendFor is send where the answer may have most bytes.
func (c *connection) sendFor(r *http.Request, out any, most int64) error {
	resp, err := c.do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, most))
		return err
	}
	body := io.LimitedReader{R: resp.Body, N: most}
	if err := json.NewDecoder(&body).Decode(out); err != nil && body.N == 0 {
		return proto.Errorf(proto.CodeTooLarge, "the answer of %s is over %d MiB, which this command does not read: ask for less, or fetch %s with another program", c.service, most>>20, r.URL.Path)
	} else if err != nil {
		return proto.Errorf(proto.CodeInvalid, "the answer of %s is not what a kith node sends: %w", c.service, err)
	}
	return nil
}

// post sends a body of rows.
func (c *connection) post(ctx context.Context, path string, query url.Values, body []byte) (ingest.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	var a ingest.Answer
	err := c.call(ctx, http.MethodPost, path, query, body, &a)
	if errors.Is(err, context.DeadlineExceeded) {
		err = proto.Errorf(proto.CodeTimeout, "the node at %s did not answer within a minute", c.service)
	}
	return a, err
}

// jsonFlag adds --json.
func jsonFlag(cmd *cobra.Command) *bool {
	return cmd.Flags().Bool("json", false, "print JSON, for programs")
}

// printJSON prints v on lines of its own.
func printJSON(cmd *cobra.Command, v any) error {
	e := json.NewEncoder(cmd.OutOrStdout())
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func printf(cmd *cobra.Command, format string, args ...any) {
	fmt.Fprintf(cmd.OutOrStdout(), format, args...)
}
