#!/usr/bin/env bash
# Makes a private CA and one certificate each for fleet, broker and aggregator, where no other PKI is at hand:
#   deploy/certificates.sh DIRECTORY make SERVICE NAME...   e.g. deploy/certificates.sh pki make fleet fleet.example.com
#   deploy/certificates.sh DIRECTORY renew SERVICE          the same names, a new key, another 398 days
#   deploy/certificates.sh DIRECTORY ends                   until when each is good
# SERVICE is fleet, broker or aggregator, NAME what clients dial. Each service shows only the names that are its own, so that
# a stolen key is good for one of them. ca.pem goes to every device and client. Keep ca.key offline: it is needed only to make
# and to renew, and who has it can be fleet, broker and aggregator. This CA must be used for nothing else: the broker lets in
# whom it signs.
set -euo pipefail
fail() { echo "certificates: $1" >&2; exit 2; }
usage="usage: $0 DIRECTORY make SERVICE NAME... | DIRECTORY renew SERVICE | DIRECTORY ends"
[ $# -ge 2 ] || fail "$usage"
folder=$1 verb=$2 service=${3:-}
shift $(( $# < 3 ? $# : 3 ))
umask 077

check_service() {
  case $service in
    fleet | broker | aggregator) ;;
    *) fail "${service:-no service} is none of fleet, broker, aggregator" ;;
  esac
}

make_ca() {
  [ ! -e ca.key ] || return 0
  [ ! -e ca.pem ] || fail "$folder/ca.pem is there and its key ca.key is not; bring the key back for as long as this takes"
  openssl ecparam -name prime256v1 -genkey -noout -out ca.key
  openssl req -x509 -new -key ca.key -sha256 -days 3650 -subj "/CN=Fedge services CA $(openssl rand -hex 4)" \
    -out ca.pem -addext "keyUsage=critical,keyCertSign"
  chmod 644 ca.pem
}

# The broker is nobody's client: with its key nobody can enter another broker, nor this one.
sign() { # NAMES, e.g. DNS:a,IP:1.2.3.4
  local uses=serverAuth,clientAuth
  [ "$service" != broker ] || uses=serverAuth
  openssl ecparam -name prime256v1 -genkey -noout -out "$service.key.new"
  openssl req -new -key "$service.key.new" -subj "/CN=$service" -out "$service.csr"
  openssl x509 -req -in "$service.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -sha256 -days 398 -out "$service.pem.new" 2>/dev/null \
    -extfile <(printf 'basicConstraints=CA:FALSE\nauthorityKeyIdentifier=keyid\nkeyUsage=digitalSignature\nextendedKeyUsage=%s\nsubjectAltName=%s\n' "$uses" "$1")
  rm "$service.csr"
  chmod 644 "$service.pem.new"
  mv "$service.key.new" "$service.key"
  mv "$service.pem.new" "$service.pem"
  echo "$folder: $service.pem and $service.key (398 days, for $1); keep ca.key offline"
}

case $verb in
  make)
    check_service
    [ $# -ge 1 ] || fail "$usage"
    names=
    for name in "$@"; do
      kind=DNS
      [[ $name == *:* || $name =~ ^[0-9.]+$ ]] && kind=IP
      names+=${names:+,}$kind:$name
    done
    mkdir -p "$folder"
    cd "$folder"
    [ ! -e "$service.key" ] || fail "$folder/$service.key exists and is not overwritten; did you mean: $0 $folder renew $service"
    make_ca
    sign "$names"
    ;;
  renew)
    check_service
    cd "$folder" 2>/dev/null || fail "there is no folder $folder"
    [ -e "$service.pem" ] && [ -e ca.key ] || fail "$folder/$service.pem and $folder/ca.key are needed to renew"
    names=$(openssl x509 -in "$service.pem" -noout -ext subjectAltName | sed -n 's/IP Address:/IP:/g; s/ //g; 2p')
    [ -n "$names" ] || fail "$folder/$service.pem names no host"
    sign "$names"
    ;;
  ends)
    cd "$folder" 2>/dev/null || fail "there is no folder $folder"
    for service in ca fleet broker aggregator; do
      [ ! -e "$service.pem" ] || echo "$service: $(openssl x509 -in "$service.pem" -noout -enddate | cut -d= -f2)"
    done
    ;;
  *) fail "$usage" ;;
esac
