-- A ClientHello without QUIC transport parameters: GnuTLS does not miss them and hands out keys, ngtcp2 (0.12 and 1.11)
-- then asserted that it knew the version, which it takes from them. One datagram from anybody ended the process.
local net = require "spec.support.net"
local uv = require "luv"

-- A client's first datagram, as recorded: an Initial packet of QUIC version 1 whose greeting offers echostream/1. Its keys
-- come from the connection id in it, so that any server can read it.
local initial = ([[
c70000000112e3ab3974ccbaa601b960738994807457cb9c085c149431c85837bf008000048aac48d9b30d9b8609632991e6abc3a1697e204e5e4124
26da8e1440635c0b6a207fe1136b27629c857be744e836d244cff688fb3e6bd9dd92ed927a4b71d424e66ffd865c2758e657a7c296c6ebc7a550a55d
45f0d14aa1544b32b22750edf7c96f78d16ee1de49c48702a06bad412fa78efad07c7ed5685326e16592f75cc915d26698d04e571ed1c49cdb07937d
706568317fd50f6db1012678de4d89a85d8e6e809c0d3db0c7e893ab131d7db4f3b334fd6588dfd3d5828046eca9076d24c947f3fd420ede9fad3c22
b4dd9429f8360821c4ba794978e1364e25d325a3427cd7d51e06ce376da182ddc5e244f86acb5a50c321e55576dccd6fe99bc1176015047c318e2655
7fe5ec7597cb74754c9f15c54fa65fdb8d946254274b9a51e06beee431602ebe16f0eeb15231690e7cd7865e610697b2adaf1d20856021f32e031fcc
477c5f8871727a1347e30ffd674bccb37e14bcffbd86de42f394fbae66f2840d6b36fb51b66943f0ae421162e849af0e9dc2fc6d08c7b7a7757a9791
05755f688e35412affc22086f9d6ab16900328ba9d61024cce94a6132b7527a9365377763476a2d5ec8122d8678c8f10e8ba23a350c8087243f12a55
ca52be5c4c1309dd1a83d898e21fbff0945a4338d18609fbeeef9c9fbc528c99c6d077f04a593ac2e5c2e3db8c5f321801b738254e43d39efe715e92
7d26beaae6c5b0fe7518a5bcb2efd54bed60df5ef4ccb2c491627e931ea885f3ebfada8b96ee68b6d4e5a96b82f1df03188085e2f7169395c942bf9c
64f5b3d9fbbf8cf66fd813c82fd544c750b00d3a0ed64764d5ce4c766be57b7655ca785d60031471aace06386b1798f35b4983f362239887010be0c5
977650b7e8c5e749addd298576148f6ddabe348b3f4e5a1ae8687c869d20fdd272f7ab444bdd78c6869fec3ce09bf009df9607a5c055c540cfd32988
43691d4d1d7331c5c383de637548f18ef0b9cad5af5b2628a581222b753ebf01de4447b8f084678a6e20c29abd3c4043b12a82b74501f33f9f4424c7
31e29e2421ab134d1168805b51a303aa9c27f1aa473fc4acb38b284f25978e8ded101ab9cef42d94f53a480af218bdc241322ac38e14b24ae4c9ca2b
6775ef0010dd69c2e7a5b84accef2228dc86c7d420eca0aac778fcee34187a5e27440feecef2a51c844fb36a3a49e5881cef2f5bc121ae9027d79d9f
b1cc12249a8ba5c168e04a170c3e4a9662d5bcfce9e96820dd6f32a414f53136ab62a9ee6efb2bd55c77b7719f8b32633b399561462d8a2d8f25e387
941811b529b90c30c762d4223cdb89220a77fe9a8c1f2204e62c274c645bceb2b57e6016a3f32cc78127aca6618281358bd74a19d2a97656fbb838d9
b93e2ba35e74de3502434808c87215ebd6011e318ee66f6d4ee4db66acc6897129d84f3eef7931dbf7389bfa91fdd07022c700eb96a43ae0ebb3f08a
a14d993be9801fdbe8f80abd79268a0e9e9b6a33401c570701ef4b705a7cb41f99c787b33c8c12e0eb6f88c354a62a2bfed0a1cb0041d1920b3b1fc2
37fc859b5dde355cabc487f8d85ac947a0a8cdf14df03ec7284d53a27426f349c393d7ee8d8e0f7f25c1b01ab94f73283ab4d21722a9ccdbf8921f46
]]):gsub("%s", ""):gsub("%x%x", function(byte) return string.char(tonumber(byte, 16)) end)

net.only("quic", function(env)
  describe("a greeting without transport parameters", function()
    env.it("is refused, and the server lives on", function()
      assert.equal(1200, #initial)
      local server = env.server(nil, function(s) s:add_rpc("ping", function() return "pong" end) end)
      local port = tonumber(server.address:match ":(%d+)$")
      local answer
      local socket = uv.new_udp()
      socket:bind("127.0.0.1", 0)
      socket:recv_start(function(_, data) answer = answer or data end)
      socket:send(initial, "127.0.0.1", port)
      env.eventually(function() return answer end, "an answer")
      socket:close()
      assert.equal("pong", env.connect(server):request "ping")
      assert.equal(2, server:stats().endpoint.accepted)
    end)
  end)
end)
