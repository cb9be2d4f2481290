# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_hairpin_global_optspecs
    string join \n config= data-dir= log-format= h/help V/version
end

function __fish_hairpin_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_hairpin_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_hairpin_using_subcommand
    set -l cmd (__fish_hairpin_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c hairpin -n "__fish_hairpin_needs_command" -l config -d 'The settings file [default: /etc/hairpin/hairpin.toml, if it is there]' -r -F
complete -c hairpin -n "__fish_hairpin_needs_command" -l data-dir -d 'Where the store and its keys lie' -r -f -a "(__fish_complete_directories)"
complete -c hairpin -n "__fish_hairpin_needs_command" -l log-format -d 'How logs are written' -r -f -a "text\t''
json\t''"
complete -c hairpin -n "__fish_hairpin_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hairpin -n "__fish_hairpin_needs_command" -s V -l version -d 'Print version'
complete -c hairpin -n "__fish_hairpin_needs_command" -f -a "serve" -d 'Runs the appliance: store, links and web page'
complete -c hairpin -n "__fish_hairpin_needs_command" -f -a "status" -d 'Shows every session: its state, its number (masked), and since when'
complete -c hairpin -n "__fish_hairpin_needs_command" -f -a "link" -d 'Asks for a pairing code, shows it with the time it has left, and ends when the phone is linked'
complete -c hairpin -n "__fish_hairpin_needs_command" -f -a "unlink" -d 'Tells WhatsApp to forget the link, then wipes everything of it'
complete -c hairpin -n "__fish_hairpin_needs_command" -f -a "audit" -d 'Shows the pairing journal, newest first: who asked for what, and what became of it'
complete -c hairpin -n "__fish_hairpin_needs_command" -f -a "access-key" -d 'Prints, or replaces, the key that opens the page'
complete -c hairpin -n "__fish_hairpin_needs_command" -f -a "check" -d 'Verifies the store, and says what it holds, without secrets. Changes nothing'
complete -c hairpin -n "__fish_hairpin_needs_command" -f -a "backup" -d 'Writes one consistent file of everything a new machine needs, readable only with its passphrase'
complete -c hairpin -n "__fish_hairpin_needs_command" -f -a "restore" -d 'Puts a backup in the place of the store, which is set aside. The appliance has to be stopped'
complete -c hairpin -n "__fish_hairpin_needs_command" -f -a "start-over" -d 'Sets the store aside under a dated name, so that the next start begins empty. The appliance has to be stopped'
complete -c hairpin -n "__fish_hairpin_needs_command" -f -a "phone" -d 'Shows how a number is read, or why it is refused'
complete -c hairpin -n "__fish_hairpin_needs_command" -f -a "tls-self-signed" -d 'Writes a certificate and its key for the page, and prints the fingerprint that browsers show'
complete -c hairpin -n "__fish_hairpin_using_subcommand serve" -l listen -d 'Where the page is served' -r
complete -c hairpin -n "__fish_hairpin_using_subcommand serve" -l whatsapp-url -d 'Where the companion protocol is spoken' -r
complete -c hairpin -n "__fish_hairpin_using_subcommand serve" -l config -d 'The settings file [default: /etc/hairpin/hairpin.toml, if it is there]' -r -F
complete -c hairpin -n "__fish_hairpin_using_subcommand serve" -l data-dir -d 'Where the store and its keys lie' -r -f -a "(__fish_complete_directories)"
complete -c hairpin -n "__fish_hairpin_using_subcommand serve" -l log-format -d 'How logs are written' -r -f -a "text\t''
json\t''"
complete -c hairpin -n "__fish_hairpin_using_subcommand serve" -l open-key -d 'Also prints the address that opens the page by itself. It holds the access key: for a terminal, not for logs'
complete -c hairpin -n "__fish_hairpin_using_subcommand serve" -s h -l help -d 'Print help'
complete -c hairpin -n "__fish_hairpin_using_subcommand status" -l config -d 'The settings file [default: /etc/hairpin/hairpin.toml, if it is there]' -r -F
complete -c hairpin -n "__fish_hairpin_using_subcommand status" -l data-dir -d 'Where the store and its keys lie' -r -f -a "(__fish_complete_directories)"
complete -c hairpin -n "__fish_hairpin_using_subcommand status" -l log-format -d 'How logs are written' -r -f -a "text\t''
json\t''"
complete -c hairpin -n "__fish_hairpin_using_subcommand status" -l json -d 'Answers in JSON: a list of statuses, each with `running`'
complete -c hairpin -n "__fish_hairpin_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hairpin -n "__fish_hairpin_using_subcommand link" -l session -d 'Which session is linked' -r
complete -c hairpin -n "__fish_hairpin_using_subcommand link" -l country -d 'How a number without a country code is read (ISO 3166)' -r
complete -c hairpin -n "__fish_hairpin_using_subcommand link" -l config -d 'The settings file [default: /etc/hairpin/hairpin.toml, if it is there]' -r -F
complete -c hairpin -n "__fish_hairpin_using_subcommand link" -l data-dir -d 'Where the store and its keys lie' -r -f -a "(__fish_complete_directories)"
complete -c hairpin -n "__fish_hairpin_using_subcommand link" -l log-format -d 'How logs are written' -r -f -a "text\t''
json\t''"
complete -c hairpin -n "__fish_hairpin_using_subcommand link" -l replace -d 'Replaces the link that the session has, without a question'
complete -c hairpin -n "__fish_hairpin_using_subcommand link" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hairpin -n "__fish_hairpin_using_subcommand unlink" -l session -d 'Which session is unlinked' -r
complete -c hairpin -n "__fish_hairpin_using_subcommand unlink" -l config -d 'The settings file [default: /etc/hairpin/hairpin.toml, if it is there]' -r -F
complete -c hairpin -n "__fish_hairpin_using_subcommand unlink" -l data-dir -d 'Where the store and its keys lie' -r -f -a "(__fish_complete_directories)"
complete -c hairpin -n "__fish_hairpin_using_subcommand unlink" -l log-format -d 'How logs are written' -r -f -a "text\t''
json\t''"
complete -c hairpin -n "__fish_hairpin_using_subcommand unlink" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hairpin -n "__fish_hairpin_using_subcommand audit" -l config -d 'The settings file [default: /etc/hairpin/hairpin.toml, if it is there]' -r -F
complete -c hairpin -n "__fish_hairpin_using_subcommand audit" -l data-dir -d 'Where the store and its keys lie' -r -f -a "(__fish_complete_directories)"
complete -c hairpin -n "__fish_hairpin_using_subcommand audit" -l log-format -d 'How logs are written' -r -f -a "text\t''
json\t''"
complete -c hairpin -n "__fish_hairpin_using_subcommand audit" -l json -d 'Answers in JSON'
complete -c hairpin -n "__fish_hairpin_using_subcommand audit" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hairpin -n "__fish_hairpin_using_subcommand access-key" -l config -d 'The settings file [default: /etc/hairpin/hairpin.toml, if it is there]' -r -F
complete -c hairpin -n "__fish_hairpin_using_subcommand access-key" -l data-dir -d 'Where the store and its keys lie' -r -f -a "(__fish_complete_directories)"
complete -c hairpin -n "__fish_hairpin_using_subcommand access-key" -l log-format -d 'How logs are written' -r -f -a "text\t''
json\t''"
complete -c hairpin -n "__fish_hairpin_using_subcommand access-key" -l rotate -d 'Makes a new key: whoever is logged in has to log in again, and open pages close at once'
complete -c hairpin -n "__fish_hairpin_using_subcommand access-key" -s h -l help -d 'Print help'
complete -c hairpin -n "__fish_hairpin_using_subcommand check" -l config -d 'The settings file [default: /etc/hairpin/hairpin.toml, if it is there]' -r -F
complete -c hairpin -n "__fish_hairpin_using_subcommand check" -l data-dir -d 'Where the store and its keys lie' -r -f -a "(__fish_complete_directories)"
complete -c hairpin -n "__fish_hairpin_using_subcommand check" -l log-format -d 'How logs are written' -r -f -a "text\t''
json\t''"
complete -c hairpin -n "__fish_hairpin_using_subcommand check" -s h -l help -d 'Print help'
complete -c hairpin -n "__fish_hairpin_using_subcommand backup" -l config -d 'The settings file [default: /etc/hairpin/hairpin.toml, if it is there]' -r -F
complete -c hairpin -n "__fish_hairpin_using_subcommand backup" -l data-dir -d 'Where the store and its keys lie' -r -f -a "(__fish_complete_directories)"
complete -c hairpin -n "__fish_hairpin_using_subcommand backup" -l log-format -d 'How logs are written' -r -f -a "text\t''
json\t''"
complete -c hairpin -n "__fish_hairpin_using_subcommand backup" -l passphrase -d 'Asks for a passphrase also where there is a credential, which would open the backup on this machine alone'
complete -c hairpin -n "__fish_hairpin_using_subcommand backup" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hairpin -n "__fish_hairpin_using_subcommand restore" -l config -d 'The settings file [default: /etc/hairpin/hairpin.toml, if it is there]' -r -F
complete -c hairpin -n "__fish_hairpin_using_subcommand restore" -l data-dir -d 'Where the store and its keys lie' -r -f -a "(__fish_complete_directories)"
complete -c hairpin -n "__fish_hairpin_using_subcommand restore" -l log-format -d 'How logs are written' -r -f -a "text\t''
json\t''"
complete -c hairpin -n "__fish_hairpin_using_subcommand restore" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hairpin -n "__fish_hairpin_using_subcommand start-over" -l config -d 'The settings file [default: /etc/hairpin/hairpin.toml, if it is there]' -r -F
complete -c hairpin -n "__fish_hairpin_using_subcommand start-over" -l data-dir -d 'Where the store and its keys lie' -r -f -a "(__fish_complete_directories)"
complete -c hairpin -n "__fish_hairpin_using_subcommand start-over" -l log-format -d 'How logs are written' -r -f -a "text\t''
json\t''"
complete -c hairpin -n "__fish_hairpin_using_subcommand start-over" -l yes -d 'Asks nothing'
complete -c hairpin -n "__fish_hairpin_using_subcommand start-over" -s h -l help -d 'Print help'
complete -c hairpin -n "__fish_hairpin_using_subcommand phone" -l country -d 'How a number without a country code is read (ISO 3166)' -r
complete -c hairpin -n "__fish_hairpin_using_subcommand phone" -l config -d 'The settings file [default: /etc/hairpin/hairpin.toml, if it is there]' -r -F
complete -c hairpin -n "__fish_hairpin_using_subcommand phone" -l data-dir -d 'Where the store and its keys lie' -r -f -a "(__fish_complete_directories)"
complete -c hairpin -n "__fish_hairpin_using_subcommand phone" -l log-format -d 'How logs are written' -r -f -a "text\t''
json\t''"
complete -c hairpin -n "__fish_hairpin_using_subcommand phone" -l json -d 'Answers in JSON'
complete -c hairpin -n "__fish_hairpin_using_subcommand phone" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hairpin -n "__fish_hairpin_using_subcommand tls-self-signed" -l days -d 'How long it is good for. Some browsers refuse more than 825 days' -r
complete -c hairpin -n "__fish_hairpin_using_subcommand tls-self-signed" -l config -d 'The settings file [default: /etc/hairpin/hairpin.toml, if it is there]' -r -F
complete -c hairpin -n "__fish_hairpin_using_subcommand tls-self-signed" -l data-dir -d 'Where the store and its keys lie' -r -f -a "(__fish_complete_directories)"
complete -c hairpin -n "__fish_hairpin_using_subcommand tls-self-signed" -l log-format -d 'How logs are written' -r -f -a "text\t''
json\t''"
complete -c hairpin -n "__fish_hairpin_using_subcommand tls-self-signed" -l force -d 'Replaces the pair that is there: whoever trusted it has to look again'
complete -c hairpin -n "__fish_hairpin_using_subcommand tls-self-signed" -s h -l help -d 'Print help (see more with \'--help\')'
