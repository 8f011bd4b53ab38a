package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"kith/gateway"
	"kith/internal/config"
	"kith/proto"
)

// What kith.yaml says of consent is what the gateway goes by.
func TestGatewayConfigOfConsent(t *testing.T) {
	c, err := config.Parse([]byte(`consent: {country_header: CF-IPCountry, opt_in: [DE], tcf_purposes: [1, 3]}
clients:
  - name: acme
    consent: {unknown: opt-in}
  - name: other
`))
	if err != nil {
		t.Fatal(err)
	}
	g := gatewayConfig(c)
	general := gateway.ConsentPolicy{Purposes: []int{1, 3}, OptIn: []string{"DE"}}
	acme := general
	acme.OptInUnknown = true
	if d := cmp.Diff(general, g.Consent); d != "" || g.CountryHeader != "CF-IPCountry" {
		t.Error(d, g.CountryHeader)
	}
	if d := cmp.Diff(map[proto.ClientName]gateway.ConsentPolicy{"acme": acme, "other": general}, g.ConsentOf); d != "" {
		t.Error(d)
	}
}
