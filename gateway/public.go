package gateway

import "net/http"

// publicRoutes are what browsers and apps may ask.
func (g *Gateway) publicRoutes() *plane {
	p := g.newPlane("public")
	get := func(h handler) map[string]handler { return map[string]handler{http.MethodGet: h} }
	withPreflight := func(method string, h handler) map[string]handler {
		return map[string]handler{method: h, http.MethodOptions: g.preflight}
	}
	p.add("/v1/pixel.gif", get(g.pixel))
	p.add("/v1/match", get(g.getMatch))
	p.add("/v1/events", withPreflight(http.MethodPost, g.publicEvents))
	p.add("/v1/me/segments", withPreflight(http.MethodGet, g.ownSegments))
	p.add("/v1/me", map[string]handler{http.MethodGet: g.ownRecord, http.MethodDelete: g.eraseOwn, http.MethodOptions: g.preflight})
	p.add("/v1/optout", withPreflight(http.MethodPost, g.optOut))
	p.add("/v1/optin", withPreflight(http.MethodPost, g.optIn))
	p.add("/v1/optout/status", withPreflight(http.MethodGet, g.optOutStatus))
	p.add("/v1/choices", withPreflight(http.MethodPost, g.postChoices))
	p.add("/optout", map[string]handler{http.MethodGet: g.optOutPage, http.MethodPost: g.optOutForm})
	p.add("/choices", map[string]handler{http.MethodGet: g.choicesPage, http.MethodPost: g.choicesForm})
	p.add("/pages/people.css", get(g.pageAsset))
	p.add("/pages/people.js", get(g.pageAsset))
	p.add("/v1/receipts/key", withPreflight(http.MethodGet, g.getReceiptKey))
	p.add("/kith.js", get(g.script))
	p.add("/healthz", get(g.healthz))
	return p
}
