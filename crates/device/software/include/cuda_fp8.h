// In the place of the toolkit's.
#include "../language.h"
