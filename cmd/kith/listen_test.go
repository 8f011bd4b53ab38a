package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"kith/internal/config"
)

// TestConnectionsAreBounded: one beyond the bound is answered when another ends.
func TestConnectionsAreBounded(t *testing.T) {
	l, err := listenOn("public", "127.0.0.1:0", config.TLS{}, 2)
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn)
	go func() {
		defer close(accepted)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	dial()
	dial()
	first, second := <-accepted, <-accepted
	third := dial()
	if _, err := io.WriteString(third, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-accepted:
		t.Fatal("a third connection is open")
	case <-time.After(100 * time.Millisecond): // as long as it takes to be sure, were it let in
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	c := <-accepted
	if r, err := http.ReadRequest(bufio.NewReader(c)); err != nil || r.Host != "x" {
		t.Error(err)
	}
	_, _ = second.Close(), c.Close()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	<-accepted
}

// TestListenersSpeakNoHTTP2: behind a certificate, as `kith serve` opens them,
// HTTP/2 is neither agreed on nor taken unasked, so that its floods of resets come
// to nothing.
func TestListenersSpeakNoHTTP2(t *testing.T) {
	cert, key := certificateFiles(t)
	l, err := listenOn("public", "127.0.0.1:0", config.TLS{Cert: cert, Key: key}, 100)
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	s := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		_, _ = io.WriteString(w, r.Proto)
	})}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		_ = s.Close()
		<-done
	})
	offer := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}} // our own certificate
	c, err := tls.Dial("tcp", l.Addr().String(), offer)
	if err == nil {
		if p := c.ConnectionState().NegotiatedProtocol; p == "h2" {
			t.Error("HTTP/2 is agreed on")
		}
		_ = c.Close()
	}
	c, err = tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	resets := strings.Repeat("\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x08", 1000)
	go func() { _, _ = io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+resets) }()
	if _, err := io.Copy(io.Discard, c); err != nil {
		if late, ok := err.(net.Error); ok && late.Timeout() {
			t.Fatal("a connection that speaks HTTP/2 unasked stays open")
		}
	}
	if n := asked.Load(); n > 1 { // its first line looks like a request, for something that is not there
		t.Errorf("HTTP/2 unasked is taken for %d requests", n)
	}
	client := http.Client{Transport: &http.Transport{TLSClientConfig: offer, ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	r, err := client.Get("https://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if said, err := io.ReadAll(r.Body); err != nil || string(said) != "HTTP/1.1" {
		t.Errorf("a client that can both speaks %q, %v", said, err)
	}
}

// certificateFiles makes a certificate for localhost, and its key.
func certificateFiles(t *testing.T) (cert, key string) {
	t.Helper()
	pair, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	x := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, x, x, &pair.PublicKey, pair)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(pair)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writeFile(t, cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	writeFile(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})))
	return cert, key
}
