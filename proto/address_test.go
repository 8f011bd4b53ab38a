package proto_test

import (
	"testing"

	"kith/proto"
)

func TestLoopback(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "127.0.0.1": true, "127.8.0.1": true, "::1": true, "::ffff:127.0.0.1": true,
		"": false, "0.0.0.0": false, "::": false, "10.0.0.1": false, "::1%lo": false, "localhost.example": false, "127.0.0.1:80": false,
	} {
		if got := proto.Loopback(host); got != want {
			t.Errorf("%q is loopback: %t", host, got)
		}
	}
}

func TestUnspecified(t *testing.T) {
	for host, want := range map[string]bool{
		"": true, "0.0.0.0": true, "::": true, "0:0::0": true,
		"127.0.0.1": false, "localhost": false, "example.org": false, "0": false, "::1": false,
	} {
		if got := proto.Unspecified(host); got != want {
			t.Errorf("Unspecified(%q) is %t", host, got)
		}
	}
}
