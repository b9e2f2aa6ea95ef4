#include "abk.h"
