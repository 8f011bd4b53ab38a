package proto

import "net/netip"

// Loopback reports whether a host, without a port, is this machine alone.
func Loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Zone() == "" && ip.IsLoopback()
}

// Unspecified reports whether host stands for all addresses of a machine.
func Unspecified(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.IsUnspecified()
}

// IsHost reports whether a text may be a host's name or address: up to 253 of
// a-z, 0-9, dot, hyphen, underscore and, in an address, colon.
func IsHost(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '.', c == '-', c == '_', c == ':':
		default:
			return false
		}
	}
	return true
}
