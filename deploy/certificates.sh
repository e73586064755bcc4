#!/usr/bin/env bash
# Makes a private CA and one server certificate for fleet, aggregator and broker, where no other PKI is at hand:
#   deploy/certificates.sh DIRECTORY NAME...        e.g. deploy/certificates.sh pki localhost 127.0.0.1 fleet.example.com
# ca.pem goes to every device and client; keep ca.key offline, it is needed only to renew. Nothing is overwritten.
set -euo pipefail
[ $# -ge 2 ] || { echo "certificates: usage: $0 DIRECTORY NAME... (names or addresses that clients dial)" >&2; exit 2; }
folder=$1
shift
names=
for name in "$@"; do
  kind=DNS
  [[ $name == *:* || $name =~ ^[0-9.]+$ ]] && kind=IP
  names+=${names:+,}$kind:$name
done
umask 077
mkdir -p "$folder"
cd "$folder"
[ ! -e server.key ] || { echo "certificates: $folder/server.key exists and is not overwritten; choose another directory" >&2; exit 2; }
if [ ! -e ca.key ]; then
  openssl ecparam -name prime256v1 -genkey -noout -out ca.key
  openssl req -x509 -new -key ca.key -sha256 -days 3650 -subj "/CN=Fedge CA" -out ca.pem \
    -addext "keyUsage=critical,keyCertSign,cRLSign"
fi
openssl ecparam -name prime256v1 -genkey -noout -out server.key
openssl req -new -key server.key -subj "/CN=fedge" -out server.csr
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -sha256 -days 825 -out server.pem 2>/dev/null \
  -extfile <(printf 'basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nextendedKeyUsage=serverAuth\nsubjectAltName=%s\n' "$names")
rm server.csr
chmod 644 ca.pem server.pem
echo "$folder: ca.pem, server.pem and server.key (valid 825 days, for $names); keep ca.key offline"
